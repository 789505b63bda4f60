//! The engine between machines, on the real SuperLink: the same release as on the local engine bit for bit, through
//! restarts of everything; and what strangers come to.
//!
//! Flower is installed from the package index on the first run. Where that cannot be done, the tests that need it are
//! reported as ignored; with `FEDGESTALT_FLOWER=required` that is a failure. Coordinator and sites get hosts of their own
//! (network namespaces) where that is permitted, else all are on loopback; the report says which.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "flower/consortium.rs"]
mod consortium;
#[path = "flower/net.rs"]
mod net;
#[path = "common/program.rs"]
mod program;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use consortium::{Consortium, SITES, alone, free_port, reference};
use fedgestalt::cli::{Cli, Command as Asked};
use fedgestalt::engine::flower::http::{CallError, Http};
use fedgestalt::engine::flower::key::LineKey;
use fedgestalt::engine::flower::node::FleetNode;
use fedgestalt::engine::flower::object::{MAX_OBJECT, Packer};
use fedgestalt::engine::flower::proxy::{CALLS, Limits, Proxy};
use fedgestalt::engine::flower::runtime::{Control, RunClient, SUPERLINK};
use fedgestalt::engine::flower::superlink::Superlink;
use fedgestalt::engine::flower::tls;
use fedgestalt::engine::flower::wire::{
    ConfigRecord, FlowerMessage, Metadata, Node, Nothing, PullMessagesRequest, PullObjectRequest,
};
use fedgestalt::store::{Folder, SiteStore};
use jiff::Timestamp;
use libtest_mimic::{Arguments, Trial};
use net::{Net, Relay};
use prost::Message as _;
use prost::bytes::Bytes;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use sha2::{Digest as _, Sha256};

/// A test, and whether it is one over hosts.
type Test = (&'static str, fn(), bool);

/// Those that need Flower.
const WITH_FLOWER: [Test; 6] = [
    (
        "a_consortium_of_processes_comes_to_the_local_engines_release_bit_for_bit",
        a_consortium_of_processes_comes_to_the_local_engines_release_bit_for_bit,
        true,
    ),
    (
        "whatever_is_killed_and_whoever_is_late_the_model_is_the_same",
        whatever_is_killed_and_whoever_is_late_the_model_is_the_same,
        true,
    ),
    (
        "galleries_change_and_a_newcomer_comes_in_while_the_kernel_serves",
        galleries_change_and_a_newcomer_comes_in_while_the_kernel_serves,
        false,
    ),
    ("a_superlink_of_the_operators_own_will_do", a_superlink_of_the_operators_own_will_do, false),
    ("strangers_and_meddlers_get_nothing", strangers_and_meddlers_get_nothing, true),
    (
        "a_foreign_message_is_answered_with_an_error_and_changes_nothing",
        a_foreign_message_is_answered_with_an_error_and_changes_nothing,
        false,
    ),
];

/// Those that do not.
const ALONE: [Test; 2] = [
    ("a_slow_client_and_too_many_are_cut_off", a_slow_client_and_too_many_are_cut_off, false),
    (
        "the_fronts_memory_is_for_those_whom_the_superlink_let_in",
        the_fronts_memory_is_for_those_whom_the_superlink_let_in,
        false,
    ),
];

fn main() -> ExitCode {
    net::relay();
    let args = Arguments::from_args();
    let tests = || WITH_FLOWER.iter().chain(&ALONE);
    let chosen = |name: &str| args.filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()));
    // Nothing is installed for a list, or for another file's tests.
    let missing = match !args.list && WITH_FLOWER.iter().any(|(name, ..)| chosen(name)) {
        true => consortium::install().err(),
        false => None,
    };
    if let Some(reason) = &missing {
        eprintln!("IGNORED: Flower cannot be installed here, so nothing between machines is tried: {reason}");
        if std::env::var_os("FEDGESTALT_FLOWER").is_some() {
            eprintln!("FEDGESTALT_FLOWER asks for it");
            return ExitCode::FAILURE;
        }
    }
    if let Err(reason) = net::namespaces() {
        eprintln!("no hosts of their own for coordinator and sites, all are on loopback: {reason}");
    }
    let hosts = if net::namespaces().is_ok() { "several hosts" } else { "loopback" };
    let trials = tests().map(|&(name, test, over_hosts)| {
        let needs = WITH_FLOWER.iter().any(|(other, ..)| *other == name);
        Trial::test(name, move || {
            test();
            Ok(())
        })
        .with_kind(if over_hosts { hosts } else { "" })
        .with_ignored_flag(needs && missing.is_some())
    });
    let trials = trials.collect();
    libtest_mimic::run(&args, trials).exit_code()
}

fn a_consortium_of_processes_comes_to_the_local_engines_release_bit_for_bit() {
    let _alone = alone();
    let wanted = reference();
    let world = Consortium::found();
    let mut coordinator = world.coordinator("");
    let mut sites = world.sites("");
    coordinator.says("the kernel is open");
    for site in &mut sites {
        site.says("round 3 is in the model");
    }

    // The kernel serves: a photograph of one site, asked about while the others look away.
    let image = first_probe(&wanted.place.path("cohorts/site-1"));
    let began = Instant::now();
    let answer = world.place.json(&format!("site ask --store s1 --image {image}"));
    let took = began.elapsed();
    let places = answer["syndromes"].as_array().unwrap();
    // Eight syndromes in all galleries, each once, nearest first.
    assert_eq!(places.len(), 8);
    let distances: Vec<f64> = places.iter().map(|place| place["distance"].as_f64().unwrap()).collect();
    assert!(distances.is_sorted() && distances[0] < distances[7], "{distances:?}");
    println!("an answer of the kernel after {took:?}");

    // A patient is withdrawn: the nearest image of an own gallery face was itself, and then is not.
    let (own, subject) = first_of_gallery(&wanted.place.path("cohorts/site-2"));
    let nearest = |world: &Consortium| {
        let answer = world.place.json(&format!("site ask --store s2 --image {own}"));
        answer["syndromes"][0]["own_image"].as_str().map(str::to_owned)
    };
    assert_eq!(nearest(&world).as_deref(), Some(own.as_str()));
    world.place.json(&format!("site withdraw --store s2 {subject}"));
    assert_ne!(nearest(&world).as_deref(), Some(own.as_str()));

    for site in sites {
        let result = site.stop();
        assert_eq!(result["release"], hex::encode(wanted.release.release.digest()));
    }
    let result = coordinator.stop();
    assert_eq!(result["release"], hex::encode(wanted.release.release.digest()));
    assert_eq!(world.release(0).release.encode(), wanted.release.release.encode());
}

fn whatever_is_killed_and_whoever_is_late_the_model_is_the_same() {
    let _alone = alone();
    let wanted = reference();
    let world = Consortium::found();
    let mut coordinator = world.coordinator("--once");
    // Two sites have a bad line: 80 ms and 1 % of loss, and 16 Mbit/s.
    let relay_address = format!("127.0.0.1:{}", free_port());
    let worsen = || match &world.net {
        Some(net) => net.worsen(2, world.port),
        None => Some(Relay::local(&relay_address, &world.front())),
    };
    let mut relay = worsen();
    let mut url = format!("--url https://{relay_address}");
    if let Some(net) = &world.net {
        net.narrow(3, 16);
        url.clear();
    }
    let options = |at: usize| if at == 2 { format!("--once {url}") } else { "--once".to_owned() };
    let start = |at: usize| world.site(at, &options(at));
    let mut sites: Vec<_> = (0..SITES - 1).map(start).collect();
    // One site is late: the others wait for it, as they would for ten minutes.
    coordinator.says("3 of 4 sites online");
    let Asked::Coordinate(asked) = Cli::parse_from(["fedgestalt", "coordinate"]).command else { panic!() };
    assert!(asked.absent > 600, "{} s", asked.absent);
    sites.push(start(SITES - 1));
    coordinator.says("round 1 of 3");
    // A site is killed in its round, wherever it is.
    sites.remove(0).kill();
    sites.insert(0, start(0));
    sites[0].says("connected");
    // The SuperLink is killed.
    assert!(Command::new("kill").args(["-9", &world.superlink()]).status().unwrap().success());
    coordinator.says("was started again");
    // Another site is killed when it has trained, while its update is on its way.
    world.kept(1, 1);
    sites.remove(1).kill();
    sites.insert(1, start(1));
    // A site's link is down in the middle of its upload.
    if let Some(net) = &world.net {
        world.kept(3, 1);
        let (before, until) = (net.sent(3), Instant::now() + Duration::from_secs(60));
        while net.sent(3) < before + (1 << 20) && Instant::now() < until {
            thread::sleep(Duration::from_millis(20));
        }
        net.link(3, false);
        thread::sleep(Duration::from_secs(4));
        net.link(3, true);
    }
    coordinator.says("round 2 of 3");
    // The line over the relay breaks for good.
    if let Some(broken) = relay.take() {
        drop(broken);
        relay = worsen();
    }
    // The coordinator is killed, and its SuperLink is left behind.
    let left = world.superlink();
    coordinator.kill();
    thread::sleep(Duration::from_secs(2));
    coordinator = world.coordinator("--once");
    coordinator.says("waiting for");
    assert_ne!(world.superlink(), left);
    for site in sites {
        site.finish();
    }
    let result = coordinator.finish();
    if let Some(lost) = world.net.as_ref().and_then(Net::lost) {
        println!("the bad line lost {lost} packets");
        assert!(lost > 0, "the line was not bad");
    }
    drop(relay);
    assert_eq!(result["model"], hex::encode(wanted.release.release.model));
    for at in 0..SITES {
        let found = world.release(at).release;
        assert_eq!(found.metrics, wanted.release.release.metrics);
        assert_eq!(found.members, wanted.release.release.members);
        let rounds = program::read(&world.place.path(&format!("s{at}/rounds.json")));
        let rounds: Vec<u64> =
            rounds.as_array().unwrap().iter().map(|r| r["round"].as_u64().unwrap()).collect();
        assert_eq!(rounds, [1, 2, 3], "site-{at}");
        // Nobody trained a round twice, but who was killed in the middle of it.
        match (at, &world.trainings(at)[..]) {
            (0, [1 | 2, 1, 1]) | (1.., [1, 1, 1]) => {}
            other => panic!("trainings begun: {other:?}"),
        }
    }
}

/// Where the face of a question is nearest: in the answerer's own gallery, or at what distance in another's.
#[derive(Debug, PartialEq)]
enum Nearest {
    Own(String),
    /// The same photograph: no distance, or the one step that rounding up makes of next to none.
    Same,
    Other(f64),
}

fn nearest(world: &Consortium, site: usize, question: &str) -> Nearest {
    let answer = world.place.json(&format!("site ask --store s{site} {question}"));
    // Rankings are normalised: the nearest image is not always that of the first syndrome.
    let places = answer["syndromes"].as_array().unwrap();
    let distance = |place: &serde_json::Value| place["distance"].as_f64().unwrap();
    let place = places.iter().min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap();
    match place["own_image"].as_str() {
        Some(own) => Nearest::Own(own.to_owned()),
        None if distance(place) < 0.011 => Nearest::Same,
        None => Nearest::Other(distance(place)),
    }
}

fn galleries_change_and_a_newcomer_comes_in_while_the_kernel_serves() {
    let _alone = alone();
    let wanted = reference();
    let world = Consortium::at_home();
    // Hospital 1 has a patient whose photograph it asks about.
    let (mine, theirs) = (world.place.path("c1"), world.place.path("c4"));
    let origin = wanted.place.path("cohorts/site-1");
    copy(&origin, &mine);
    copy(&origin, &theirs);
    let patient = table(&mine, "frequent_test")[0].clone();
    let question = format!("--image {}", patient[0]);
    let rows = fs::read_to_string(mine.join("points.csv")).unwrap();
    let points = rows.lines().find_map(|row| row.strip_prefix(&format!("{},", patient[0]))).unwrap();
    let mut coordinator = world.coordinator("");
    let mut sites: Vec<_> =
        (0..SITES).map(|at| if at == 1 { world.site_on(1, &mine, "") } else { world.site(at, "") }).collect();
    coordinator.says("the kernel is open");
    sites[1].says("round 3 is in the model");
    let before = nearest(&world, 1, &question);
    assert_ne!(before, Nearest::Same);

    // The hospital imports a further photograph of that face: everybody finds it.
    let again = |cohort: &Path, name: &str| {
        let photo = |image: &str| cohort.join(format!("gmdb_images/{image}.jpg"));
        fs::copy(photo(&patient[0]), photo(name)).unwrap();
        let file = cohort.join("points.csv");
        let rows = fs::read_to_string(&file).unwrap();
        fs::write(file, format!("{rows}{name},{points}\n")).unwrap();
        let list = gallery_file(cohort);
        let rows = fs::read_to_string(&list).unwrap();
        fs::write(list, format!("{rows}{name},{},{name}\n", patient[1])).unwrap();
    };
    again(&mine, "900001");
    sites[1].says("(1 new, 0 withdrawn)");
    assert_eq!(nearest(&world, 1, &question), Nearest::Own("900001".into()));
    let photo = format!("{}/gmdb_images/{}.jpg --points {points}", mine.display(), patient[0]);
    assert_eq!(nearest(&world, 2, &photo), Nearest::Same);

    // It takes it out of the folder again, then imports it once more, and then the patient withdraws.
    let list = gallery_file(&mine);
    let with = fs::read_to_string(&list).unwrap();
    let without: String =
        with.lines().filter(|row| !row.starts_with("900001,")).map(|row| format!("{row}\n")).collect();
    fs::write(&list, without).unwrap();
    sites[1].says("(0 new, 1 withdrawn)");
    assert_eq!(nearest(&world, 1, &question), before);
    fs::write(&list, &with).unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while nearest(&world, 1, &question) == before {
        assert!(Instant::now() < until, "the image does not come back");
        thread::sleep(Duration::from_millis(500));
    }
    world.place.json("site withdraw --store s1 900001");
    assert_eq!(nearest(&world, 1, &question), before);
    assert_eq!(nearest(&world, 2, &photo), nearest(&world, 2, &photo));
    // The folder still has the patient; what the site imports next leaves that one out.
    again(&mine, "900002");
    let until = Instant::now() + Duration::from_secs(60);
    while nearest(&world, 1, &question) != Nearest::Own("900002".into()) {
        assert!(Instant::now() < until, "the other image does not come in");
        thread::sleep(Duration::from_millis(500));
    }
    world.place.json("site withdraw --store s1 900002");
    assert_eq!(nearest(&world, 1, &question), before);

    // A fifth hospital has a patient with that face. Nobody is restarted for it.
    again(&theirs, "900003");
    world.admit(SITES);
    coordinator.says("roster 2 is in force");
    let mut newcomer = world.site_on(SITES, &theirs, "");
    sites[0].says("site-4, which the consortium has admitted, asks for the group key");
    assert_eq!(nearest(&world, 1, &question), before, "nothing of it before somebody has approved it");
    world.place.json("site approve --store s0 site-4");
    let until = Instant::now() + Duration::from_secs(60);
    while nearest(&world, 1, &question) != Nearest::Same {
        assert!(Instant::now() < until, "the newcomer's gallery does not come in");
        thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(nearest(&world, SITES, &question), Nearest::Own("900003".into()));

    // Then everything is restarted, the newcomer while it is out of reach, and all is as it was.
    coordinator.kill();
    newcomer.kill();
    coordinator = world.coordinator("");
    newcomer = world.site_on(SITES, &theirs, "");
    coordinator.says("the kernel is open");
    assert_eq!(nearest(&world, 1, &question), Nearest::Same);
    assert_eq!(nearest(&world, SITES, &question), Nearest::Own("900003".into()));

    let digest = hex::encode(wanted.release.release.digest());
    for site in sites.into_iter().chain([newcomer]) {
        assert_eq!(site.stop()["release"], digest);
    }
    coordinator.stop();
    assert_eq!(world.release(SITES).release.encode(), wanted.release.release.encode());
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

fn strangers_and_meddlers_get_nothing() {
    let _alone = alone();
    let _ = reference();
    let world = Consortium::found();
    let mut coordinator = world.coordinator("");
    coordinator.says("sites reach this coordinator");
    coordinator.says("0 of 4 sites online");
    let http = Http::new(&world.url(), &world.authority(), false).unwrap();

    // A stranger with a key of its own.
    let stranger = LineKey::from_secret(&[9; 48]).unwrap();
    let error = FleetNode::activate(&http, &stranger, None).err().unwrap();
    assert!(matches!(error, CallError::Refused { .. }), "{error}");
    // Someone who replays another's signature, five minutes and more later.
    let store = SiteStore::open(&world.place.path("s3")).unwrap();
    let key = LineKey::from_secret(&store.key("line").unwrap().unwrap()).unwrap();
    drop(store);
    let old = Timestamp::now() - jiff::SignedDuration::from_secs(400);
    let headers = key.headers(old).unwrap();
    let error = http.call::<Nothing>(CALLS[3], &headers, &Nothing {}).unwrap_err();
    assert!(error.is_unauthorised(), "{error}");

    // Paths that are not a site's: Control would start a run for anyone, Runtime hand out its messages.
    for path in [
        "/v1/control/start-run",
        "/v1/runtime/acquire-task",
        "/v1/fleet/register-node",
        "/docs",
        "/v1/fleet/../control/list-nodes",
    ] {
        match http.call::<Nothing>(path, &[], &Nothing {}) {
            Err(CallError::Refused { status: 403, .. }) => {}
            other => panic!("{path}: {other:?}"),
        }
    }
    // The SuperLink itself is on the coordinator's loopback only.
    if world.net.is_some() {
        let inside = world.superlink_port();
        assert!(TcpStream::connect((world.address.as_str(), inside)).is_err());
    }
    // A body that is too long is refused by its head.
    let answer =
        raw(&world, &format!("POST {} HTTP/1.1\r\ncontent-length: {}\r\n\r\n", CALLS[7], 2 * MAX_OBJECT));
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let answer = raw(&world, "GET /health HTTP/1.1\r\nhost: a\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");

    // A man in the middle with a certificate of his own: the site ends and says so.
    let here = world.net.as_ref().map_or("127.0.0.1".to_owned(), Net::own);
    let false_name =
        tls::make(std::slice::from_ref(&here), "the coordinator, honestly", Timestamp::now()).unwrap();
    let middle = Proxy::start(
        format!("{here}:0").parse().unwrap(),
        tls::server(&false_name.chain, &false_name.key).unwrap(),
        tls::client(&world.authority()).unwrap(),
        world.port,
        Limits::default(),
    )
    .unwrap();
    let said = world.site(0, &format!("--url https://{}", middle.address())).fails();
    assert!(said.contains("certificate that the invitation does not vouch for"), "{said}");
    // The port is taken: a second coordinator says so.
    let mut second = Consortium::at_home();
    second.port = free_port();
    let _taken = TcpListener::bind(("127.0.0.1", second.port)).unwrap();
    let said = second.coordinator("").fails();
    assert!(said.contains("is taken"), "{said}");
    coordinator.stop();
}

/// Writes bytes over TLS and reads what comes back until the other side ends the connection.
fn raw(world: &Consortium, text: &str) -> String {
    let config = tls::client(&world.authority()).unwrap();
    let stream = TcpStream::connect(world.front()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let name = ServerName::try_from(world.address.clone()).unwrap();
    let mut stream = StreamOwned::new(ClientConnection::new(config, name).unwrap(), stream);
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn a_superlink_of_the_operators_own_will_do() {
    let _alone = alone();
    let _ = reference();
    let world = Consortium::at_home();
    let folder = tempfile::tempdir().unwrap();
    let superlink = Superlink::start(&Consortium::engine(), Folder::open(folder.path()).unwrap()).unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (authority, secret) = (file("authority.pem"), file("executor.secret"));
    let options = format!("--superlink {} --superlink-authority {authority}", superlink.url());
    // Without the secret that guards it, it gives nobody a run.
    let said = world.coordinator_at(&options).fails();
    assert!(said.contains("--superlink-secret"), "{said}");
    let mut coordinator = world.coordinator_at(&format!("{options} --superlink-secret {secret}"));
    let sites = world.sites("");
    coordinator.says("round 1 of 3");
    coordinator.stop();
    for site in sites {
        site.stop();
    }
    // It is the operator's: it goes on.
    let http = Http::new(&superlink.url(), superlink.authority(), false).unwrap();
    http.get("/health").unwrap();
}

fn a_foreign_message_is_answered_with_an_error_and_changes_nothing() {
    let _alone = alone();
    let _ = reference();
    let world = Consortium::at_home();
    // A SuperLink without our coordinator: somebody else drives it.
    let engine = Consortium::engine();
    let folder = tempfile::tempdir().unwrap();
    let superlink = Superlink::start(&engine, Folder::open(folder.path()).unwrap()).unwrap();
    let http = Http::new(&superlink.url(), superlink.authority(), false).unwrap();
    let certificate = fs::read_to_string(world.place.path("hub/certificate.pem")).unwrap();
    let secret = fs::read_to_string(world.place.path("hub/certificate.key")).unwrap();
    let _front = Proxy::start(
        format!("127.0.0.1:{}", world.port).parse().unwrap(),
        tls::server(&certificate, &secret).unwrap(),
        tls::client(superlink.authority()).unwrap(),
        superlink.port(),
        Limits::default(),
    )
    .unwrap();
    let request = program::read(&world.place.path("r0.json"));
    let control = Control::new(&http, Some(superlink.secret()));
    let node = control.register(request["line"].as_str().unwrap(), "site-0").unwrap();
    // Without the executors' secret nobody gets the task.
    assert!(Control::new(&http, None).start([1; 16], Timestamp::now()).is_err());
    // The run whose start was refused half-way does not stand in the way of the next.
    let run = control.start([2; 16], Timestamp::now()).unwrap();
    let mut site = world.site(0, "");
    site.says("connected");
    let client = RunClient { http: &http, run: &run };
    let metadata = Metadata {
        run_id: run.id,
        src_node_id: SUPERLINK,
        dst_node_id: node,
        ttl: 600.0,
        message_type: "train".to_owned(),
        created_at: Timestamp::now().as_microsecond() as f64 / 1e6,
        ..Metadata::default()
    };
    let message = FlowerMessage { metadata: Some(metadata), content: None, error: None };
    let parcel = Packer::default().pack(message, &ConfigRecord::default(), &[]);
    assert_eq!(client.push(std::slice::from_ref(&parcel), &|_| {}).unwrap(), [true]);
    let until = Instant::now() + Duration::from_secs(30);
    let error = loop {
        let replies = client.pull(vec![parcel.tree.object_id.clone()]).unwrap();
        if let Some(reply) = replies.into_iter().next() {
            break reply.error.unwrap().reason;
        }
        assert!(Instant::now() < until, "no answer");
        thread::sleep(Duration::from_millis(200));
    };
    assert!(error.contains("messages of the federation only"), "{error}");
    site.says("not a message of the federation");
    site.stop();
    let store = SiteStore::open(&world.place.path("s0")).unwrap();
    let log = store.audit_log().unwrap();
    assert_eq!(log.len(), 1);
    assert_eq!(log[0].entry.what, "foreign message refused");
}

fn a_slow_client_and_too_many_are_cut_off() {
    let identity = tls::make(&["127.0.0.1".to_owned()], "front", Timestamp::now()).unwrap();
    let limits = Limits {
        connections: 4,
        per_address: 3,
        head_time: Duration::from_millis(400),
        body_time: Duration::from_millis(600),
        idle: Duration::from_millis(500),
        ..Limits::default()
    };
    let front = lone_front(&identity, limits);
    let config = tls::client(&identity.authority).unwrap();
    let open = |config: &Arc<_>| connect(&front, config);
    // A head that comes a byte at a time is never read to its end, however lively the client is.
    let mut slow = open(&config);
    let began = Instant::now();
    let head = format!("POST {} HTTP/1.1\r\ncontent-length: 1\r\n", CALLS[0]);
    let cut = head.bytes().chain(std::iter::repeat(b'a')).take(400).any(|byte| {
        thread::sleep(Duration::from_millis(20));
        slow.write_all(&[byte]).and_then(|()| slow.flush()).is_err()
    });
    assert!(cut, "a slow head was endured for {:?}", began.elapsed());
    // Nothing at all, not even a handshake.
    let mut mute = TcpStream::connect(front.address()).unwrap();
    mute.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(mute.read(&mut [0; 16]).unwrap_or(0), 0);
    // The fourth connection from one address is closed at once.
    let held: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(front.address()).unwrap()).collect();
    let mut fourth = TcpStream::connect(front.address()).unwrap();
    fourth.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert_eq!(fourth.read(&mut [0; 16]).unwrap_or(1), 0, "closed before the first three were cut");
    drop(held);
    // The SuperLink is away: the client is told, and may come again.
    thread::sleep(Duration::from_millis(600));
    let mut away = open(&config);
    away.write_all(format!("POST {} HTTP/1.1\r\ncontent-length: 0\r\n\r\n", CALLS[0]).as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = away.read_to_end(&mut answer);
    assert!(String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 502"), "{answer:?}");
}

fn the_fronts_memory_is_for_those_whom_the_superlink_let_in() {
    let identity = tls::make(&["127.0.0.1".to_owned()], "front", Timestamp::now()).unwrap();
    let front = lone_front(&identity, Limits::default());
    let config = tls::client(&identity.authority).unwrap();
    let secret = [Bytes::from_static(b"a sum, "), Bytes::from_static(b"masked")];
    front.exchange().expect([("aa", 9)].into_iter());
    front.exchange().issued("aa", secret);
    let proof = [("flwr-public-key", "key"), ("flwr-signature", "signed"), ("flwr-timestamp", "now")];
    // Who holds it: the three headers, each with its length, so that no two proofs are alike.
    let mut hash = Sha256::new();
    for (_, value) in proof {
        hash.update((value.len() as u64).to_le_bytes());
        hash.update(value);
    }
    let held: [u8; 32] = hash.finalize().into();
    front.exchange().prove(held, None);
    let call = |name: &str, body: &[u8], headers: &[(&str, &str)]| {
        let call = CALLS.iter().find(|call| call.ends_with(name)).unwrap();
        let mut request =
            format!("POST {call} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
        headers.iter().for_each(|(name, value)| request.push_str(&format!("{name}: {value}\r\n")));
        let mut stream = connect(&front, &config);
        stream.write_all(&[request.as_bytes(), b"\r\n", body].concat()).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    let pull = |id: &str, headers: &[(&str, &str)]| {
        let request = PullObjectRequest { node: None, run_id: 1, object_id: id.to_owned() };
        call("pull-object", &request.encode_to_vec(), headers)
    };
    let answer = pull("aa", &proof);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("a sum, masked"), "{answer:?}");
    // Everybody else is for the SuperLink to judge, which is away here: without a proof, with half of one, with another's.
    let [key, signature, time] = proof;
    let strangers: [&[(&str, &str)]; 6] = [
        &[],
        &[key, signature],
        &[key, signature, ("flwr-timestamp", "later")],
        &[key, ("flwr-signature", "forged"), time],
        &[("flwr-public-key", "another"), signature, time],
        // The same bytes, cut elsewhere.
        &[("flwr-public-key", "keys"), ("flwr-signature", "igned"), time],
    ];
    for headers in strangers {
        let answer = pull("aa", headers);
        assert!(answer.starts_with("HTTP/1.1 502") && !answer.contains("masked"), "{headers:?}: {answer:?}");
    }
    // What is not in the memory is the SuperLink's too.
    assert!(pull("bb", &proof).starts_with("HTTP/1.1 502"));
    // A letter is for the site that it is for: not for another that was let in, whatever number it says it has, nor for one
    // that has not shown yet which it is.
    front.exchange().instructed(7, Bytes::from_static(b"for site 7"));
    let ask = |node_id| {
        let request = PullMessagesRequest { node: Some(Node { node_id }) };
        call("pull-messages", &request.encode_to_vec(), &proof)
    };
    for (asks, is) in [(7, None), (7, Some(8)), (8, Some(8))] {
        is.into_iter().for_each(|node| front.exchange().prove(held, Some(node)));
        let answer = ask(asks);
        assert!(
            answer.starts_with("HTTP/1.1 502") && !answer.contains("site 7"),
            "{asks} {is:?}: {answer:?}"
        );
    }
    front.exchange().prove(held, Some(7));
    assert!(ask(7).ends_with("for site 7"));
    assert!(ask(7).starts_with("HTTP/1.1 502"), "handed out twice");
}

/// A front before a SuperLink that is away.
fn lone_front(identity: &tls::Identity, limits: Limits) -> Proxy {
    Proxy::start(
        "127.0.0.1:0".parse().unwrap(),
        tls::server(&identity.chain, &identity.key).unwrap(),
        tls::client(&identity.authority).unwrap(),
        free_port(),
        limits,
    )
    .unwrap()
}

fn connect(front: &Proxy, config: &Arc<ClientConfig>) -> StreamOwned<ClientConnection, TcpStream> {
    let stream = TcpStream::connect(front.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    StreamOwned::new(ClientConnection::new(Arc::clone(config), name).unwrap(), stream)
}

/// The first image of a cohort's frequent test part.
fn first_probe(cohort: &Path) -> String {
    table(cohort, "frequent_test")[0][0].clone()
}

/// The first image of a cohort's frequent gallery, and its subject.
fn first_of_gallery(cohort: &Path) -> (String, String) {
    let row = table(cohort, "frequent_gallery")[0].clone();
    (row[0].clone(), row[2].clone())
}

fn gallery_file(cohort: &Path) -> PathBuf {
    table_file(cohort, "frequent_gallery")
}

fn table_file(cohort: &Path, part: &str) -> PathBuf {
    let mut files = fs::read_dir(cohort.join("gmdb_metadata")).unwrap().map(|entry| entry.unwrap().path());
    files.find(|path| path.file_name().unwrap().to_string_lossy().contains(part)).unwrap()
}

fn table(cohort: &Path, part: &str) -> Vec<Vec<String>> {
    let file = table_file(cohort, part);
    let mut reader = csv::Reader::from_path(file).unwrap();
    reader.records().map(|row| row.unwrap().iter().map(str::to_owned).collect()).collect()
}
