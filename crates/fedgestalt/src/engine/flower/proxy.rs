//! What stands between the sites and the SuperLink.
//!
//! A stock SuperLink answers its Control API to anyone who reaches its port. So it listens on loopback, and this front
//! ends TLS and passes on the eight calls that a site makes and nothing else. Heads, bodies, times and connections are
//! bounded; what is not understood to the last byte is refused and the connection closed. What the SuperLink need not be
//! asked for is answered here (`relay`), to whom the SuperLink has let in with the same proof.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection, StreamOwned};

use super::exchange::Exchange;
use super::http::CONTENT_TYPE;
use super::object::MAX_OBJECT;

mod head;
mod relay;

use head::{Fault, Request, Response};

/// The calls of a site.
pub const CALLS: [&str; 8] = [
    "/v1/fleet/activate-node",
    "/v1/fleet/deactivate-node",
    "/v1/fleet/send-node-heartbeat",
    "/v1/fleet/pull-messages",
    "/v1/fleet/pull-object",
    "/v1/fleet/confirm-message-received",
    "/v1/fleet/push-messages",
    "/v1/fleet/push-object",
];

/// What is allowed to one client, and to all.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// Connections at a time from one address; hospitals behind one address share them.
    pub per_address: usize,
    /// Bytes of a request's head.
    pub head: usize,
    /// Bytes of a body.
    pub body: usize,
    /// For the handshake and each head, from its first byte.
    pub head_time: Duration,
    /// For each body, in either direction.
    pub body_time: Duration,
    /// Between requests.
    pub idle: Duration,
    /// How long a question for instructions waits for one.
    pub hold: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            per_address: 64,
            head: 8 << 10,
            body: MAX_OBJECT + (4 << 10),
            head_time: Duration::from_secs(10),
            body_time: Duration::from_secs(180),
            idle: Duration::from_secs(75),
            hold: Duration::from_millis(500),
        }
    }
}

/// What the front has seen.
#[derive(Debug, Default)]
pub struct Counts {
    /// Requests passed on.
    pub passed: AtomicU64,
    /// Requests and connections refused.
    pub refused: AtomicU64,
    /// Bytes of bodies from sites.
    pub up: AtomicU64,
    /// Bytes of bodies to sites.
    pub down: AtomicU64,
}

/// The front, running until the process ends.
pub struct Proxy {
    address: SocketAddr,
    port: Arc<AtomicU16>,
    exchange: Arc<Exchange>,
    counts: Arc<Counts>,
}

struct Shared {
    tls: Arc<ServerConfig>,
    upstream: Arc<ClientConfig>,
    port: Arc<AtomicU16>,
    exchange: Arc<Exchange>,
    limits: Limits,
    counts: Arc<Counts>,
    open: Mutex<BTreeMap<IpAddr, usize>>,
}

impl Proxy {
    /// Listens on `address` and passes on to the SuperLink at `port` on loopback, which `upstream` trusts.
    ///
    /// # Errors
    ///
    /// When the address is taken or not this machine's.
    pub fn start(
        address: SocketAddr,
        tls: Arc<ServerConfig>,
        upstream: Arc<ClientConfig>,
        port: u16,
        limits: Limits,
    ) -> Result<Self> {
        let listener = TcpListener::bind(address).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => {
                anyhow::anyhow!(
                    "port {} of {} is taken; stop what listens there, or give another --listen",
                    address.port(),
                    address.ip()
                )
            }
            _ => anyhow::Error::new(error).context(format!("cannot listen on {address}")),
        })?;
        let exchange = Arc::new(Exchange::default());
        let (port, counts) = (Arc::new(AtomicU16::new(port)), Arc::new(Counts::default()));
        let address = listener.local_addr().context("a listener without an address")?;
        let shared = Arc::new(Shared {
            tls,
            upstream,
            port: port.clone(),
            exchange: exchange.clone(),
            limits,
            counts: counts.clone(),
            open: Mutex::default(),
        });
        thread::spawn(move || accept(&listener, &shared));
        Ok(Self { address, port, exchange, counts })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The SuperLink is at another port now.
    pub fn redirect(&self, port: u16) {
        self.port.store(port, Ordering::Relaxed);
    }

    /// What it shares with the coordinator's loop.
    pub fn exchange(&self) -> Arc<Exchange> {
        self.exchange.clone()
    }

    /// What it has seen.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let Ok((stream, peer)) = listener.accept() else {
            // Out of file handles, most likely: let some connections end.
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        let Some(place) = Place::take(shared, peer.ip()) else {
            shared.counts.refused.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%peer, "refused: too many connections");
            continue;
        };
        let spawned =
            thread::Builder::new().name("front".to_owned()).stack_size(256 << 10).spawn(move || {
                if let Err(fault) = Visit::new(&place.shared, stream).and_then(|mut visit| visit.serve()) {
                    tracing::debug!(%peer, %fault, "connection closed");
                }
            });
        if spawned.is_err() {
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// One of the connections that are allowed; given back when dropped.
struct Place {
    shared: Arc<Shared>,
    address: IpAddr,
}

impl Place {
    fn take(shared: &Arc<Shared>, address: IpAddr) -> Option<Self> {
        let mut open = shared.open.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = open.values().sum();
        let from_here = open.entry(address).or_default();
        if all >= shared.limits.connections || *from_here >= shared.limits.per_address {
            return None;
        }
        *from_here += 1;
        Some(Self { shared: shared.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.shared.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

/// A socket with an hour at which reading and writing end, whatever trickles in.
struct Timed {
    stream: TcpStream,
    until: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(buffer)
    }
}

impl Write for Timed {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

type Front = StreamOwned<ServerConnection, Timed>;
type Back = StreamOwned<ClientConnection, Timed>;

/// uvicorn closes idle connections after five seconds.
const BACK_IDLE: Duration = Duration::from_secs(3);
/// Bytes moved at a time.
const PIECE: usize = 64 << 10;

/// One connection of a client.
struct Visit<'a> {
    shared: &'a Shared,
    front: Front,
    back: Option<(Back, Instant, u16)>,
}

impl<'a> Visit<'a> {
    fn new(shared: &'a Shared, stream: TcpStream) -> Result<Self, Fault> {
        stream.set_nodelay(true)?;
        let connection =
            ServerConnection::new(shared.tls.clone()).map_err(|error| Fault::Io(io::Error::other(error)))?;
        let timed = Timed { stream, until: Instant::now() + shared.limits.head_time };
        let mut front = StreamOwned::new(connection, timed);
        front.conn.complete_io(&mut front.sock)?;
        Ok(Self { shared, front, back: None })
    }

    fn serve(&mut self) -> Result<(), Fault> {
        loop {
            match self.exchange() {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(Fault::Refused(status, reason)) => {
                    self.shared.counts.refused.fetch_add(1, Ordering::Relaxed);
                    tracing::info!(status, reason, "request refused");
                    // What follows an unread body cannot be told from it: the connection ends here.
                    self.front.sock.until = Instant::now() + Duration::from_secs(5);
                    self.front.write_all(head::refusal(status, reason).as_bytes())?;
                    self.front.conn.send_close_notify();
                    self.front.flush()?;
                    return Ok(());
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    /// One request and its answer. False when the client is done.
    fn exchange(&mut self) -> Result<bool, Fault> {
        let limits = self.shared.limits;
        self.front.sock.until = Instant::now() + limits.idle;
        let mut buffer = Vec::with_capacity(2 << 10);
        if !read_some(&mut self.front, &mut buffer)? {
            return Ok(false);
        }
        self.front.sock.until = Instant::now() + limits.head_time;
        let request = loop {
            if let Some(request) = Request::parse(&buffer, limits.head, limits.body)? {
                break request;
            }
            if !read_some(&mut self.front, &mut buffer)? {
                return Err(Fault::Refused(400, "half a request"));
            }
        };
        if !CALLS.contains(&request.path.as_str()) {
            return Err(Fault::Refused(403, "only the calls of a site are let through"));
        }
        let rest = buffer.split_off(request.head_length);
        if rest.len() > request.body_length {
            return Err(Fault::Refused(400, "more than one request at a time"));
        }
        self.front.sock.until = Instant::now() + limits.body_time;
        self.shared.counts.up.fetch_add(request.body_length as u64, Ordering::Relaxed);
        self.attend(&request, rest)?;
        self.shared.counts.passed.fetch_add(1, Ordering::Relaxed);
        Ok(!request.closes)
    }

    fn back(&mut self) -> Result<&mut Back, Fault> {
        let port = self.shared.port.load(Ordering::Relaxed);
        let fresh = |(_, used, to): &(Back, Instant, u16)| used.elapsed() < BACK_IDLE && *to == port;
        if !self.back.as_ref().is_some_and(fresh) {
            let gone = |_| Fault::Refused(502, "the SuperLink is away; try again");
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).map_err(gone)?;
            stream.set_nodelay(true)?;
            let name = ServerName::from(IpAddr::from([127, 0, 0, 1]));
            let connection = ClientConnection::new(self.shared.upstream.clone(), name)
                .map_err(|error| Fault::Io(io::Error::other(error)))?;
            let timed = Timed { stream, until: Instant::now() };
            self.back = Some((StreamOwned::new(connection, timed), Instant::now(), port));
        }
        match &mut self.back {
            Some((back, _, _)) => {
                back.sock.until = Instant::now() + self.shared.limits.body_time;
                Ok(back)
            }
            None => Err(Fault::Refused(502, "the SuperLink is away; try again")),
        }
    }

    /// Passes a request on, and what was read of its body into `copy` where there is one.
    fn forward(
        &mut self,
        request: &Request,
        rest: &[u8],
        mut copy: Option<&mut Vec<u8>>,
    ) -> Result<(), Fault> {
        let head = request.forwarded(CONTENT_TYPE);
        self.back()?;
        let (front, Some((back, _, _))) = (&mut self.front, &mut self.back) else { return Ok(()) };
        let gone = |_| Fault::Refused(502, "the SuperLink went away; try again");
        back.write_all(head.as_bytes()).map_err(gone)?;
        back.write_all(rest).map_err(gone)?;
        if let Some(copy) = &mut copy {
            copy.extend_from_slice(rest);
        }
        let mut left = request.body_length - rest.len();
        let mut piece = vec![0; PIECE.min(left)];
        while left > 0 {
            let most = piece.len().min(left);
            let read = front.read(&mut piece[..most])?;
            if read == 0 {
                return Err(Fault::Refused(400, "half a body"));
            }
            back.write_all(&piece[..read]).map_err(gone)?;
            if let Some(copy) = &mut copy {
                copy.extend_from_slice(&piece[..read]);
            }
            left -= read;
        }
        back.flush().map_err(gone)
    }

    /// The head of what the SuperLink answers, and what came with it.
    fn hear(&mut self) -> Result<(Response, Vec<u8>), Fault> {
        let Some((back, used, _)) = &mut self.back else {
            return Err(Fault::Refused(502, "the SuperLink went away; try again"));
        };
        let mut buffer = Vec::with_capacity(2 << 10);
        let response = loop {
            if let Some(response) = Response::parse(&buffer)? {
                break response;
            }
            if !read_some(back, &mut buffer)
                .map_err(|_| Fault::Refused(502, "the SuperLink gave no answer"))?
            {
                return Err(Fault::Refused(502, "the SuperLink gave half an answer"));
            }
        };
        let rest = buffer.split_off(response.head_length);
        *used = Instant::now();
        Ok((response, rest))
    }

    /// Passes the answer on, of which `rest` was read.
    fn answer(&mut self, response: &Response, rest: &[u8]) -> Result<(), Fault> {
        let gone = |_| Fault::Refused(502, "the SuperLink went away; try again");
        let (front, Some((back, used, _))) = (&mut self.front, &mut self.back) else { return Ok(()) };
        front.write_all(response.forwarded().as_bytes())?;
        front.write_all(rest)?;
        let mut left = response.body_length.saturating_sub(rest.len());
        let mut piece = vec![0; PIECE.min(left)];
        while left > 0 {
            let most = piece.len().min(left);
            let read = back.read(&mut piece[..most]).map_err(gone)?;
            if read == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            front.write_all(&piece[..read])?;
            left -= read;
        }
        front.flush()?;
        self.shared.counts.down.fetch_add(response.body_length as u64, Ordering::Relaxed);
        *used = Instant::now();
        if response.closes {
            self.back = None;
        }
        Ok(())
    }
}

/// Reads what is there. False at the end.
fn read_some(from: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<bool> {
    let mut piece = [0; 4 << 10];
    let read = from.read(&mut piece)?;
    buffer.extend_from_slice(&piece[..read]);
    Ok(read > 0)
}
