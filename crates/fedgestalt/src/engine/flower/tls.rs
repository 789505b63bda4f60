//! Certificates: of the coordinator towards the sites, and of the SuperLink on loopback.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// Years that a certificate made here is good for.
const YEARS: i32 = 5;

/// A certificate with its key, and what vouches for it; all PEM.
pub struct Identity {
    /// What others trust.
    pub authority: String,
    /// The certificate, and whatever stands between it and the authority.
    pub chain: String,
    /// Secret.
    pub key: String,
}

/// Makes an authority for this one certificate and throws its key away: nothing else can ever be signed by it.
///
/// # Errors
///
/// When a host name is none.
pub fn make(hosts: &[String], name: &str, now: Timestamp) -> Result<Identity> {
    let year = i32::from(now.strftime("%Y").to_string().parse::<i16>()?);
    let valid = |mut params: CertificateParams, name: String| {
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = date_time_ymd(year - 1, 1, 1);
        params.not_after = date_time_ymd(year + YEARS, 1, 1);
        params
    };
    let mut params = valid(CertificateParams::default(), format!("{name} authority"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let params = CertificateParams::new(hosts).context("a host that is neither name nor address")?;
    let certificate = valid(params, name.to_owned()).signed_by(&key, &authority)?;
    Ok(Identity { authority: authority.pem(), chain: certificate.pem(), key: key.serialize_pem() })
}

/// TLS towards whoever connects.
///
/// # Errors
///
/// When certificate and key do not fit together or are none.
pub fn server(chain: &str, key: &str) -> Result<Arc<ServerConfig>> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<_, _>>()
        .context("no certificate in PEM")?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).context("no private key in PEM")?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("certificate and private key do not fit together")?;
    Ok(Arc::new(config))
}

/// TLS towards a server that one of these authorities vouches for.
///
/// # Errors
///
/// When there is no certificate in `authority`.
pub fn client(authority: &str) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        roots.add(certificate.context("no certificate in PEM")?)?;
    }
    anyhow::ensure!(!roots.is_empty(), "there is no certificate of an authority");
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
