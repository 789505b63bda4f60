//! Several hosts on one machine: network namespaces with a router between them, and a bad line.
#![allow(clippy::unwrap_used)]

use std::env;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{self, Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Says to this program that it is a relay: `FROM TO PAUSES`, two socket addresses and 0 or 1.
const RELAY: &str = "FEDGESTALT_TEST_RELAY";
/// Half of the relay's round trip of 80 ms.
const WAY: Duration = Duration::from_millis(40);
/// Bytes that the relay passes on at a time, about eleven packets.
const PIECE: usize = 16 << 10;

/// A host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Host {
    /// The coordinator's.
    Hub,
    /// A site's.
    Site(usize),
}

/// Whether this machine lets us make hosts, and if not, why.
pub(crate) fn namespaces() -> &'static Result<(), String> {
    static POSSIBLE: OnceLock<Result<(), String>> = OnceLock::new();
    POSSIBLE.get_or_init(|| {
        let name = format!("fg{}-try", process::id());
        ip(&format!("netns add {name}"))?;
        let made = ip(&format!("-n {name} link add name a type veth peer name b"));
        ip(&format!("netns del {name}"))?;
        made
    })
}

fn ip(args: &str) -> Result<(), String> {
    let output = Command::new("ip").args(args.split_whitespace()).output();
    let output = output.map_err(|error| format!("ip {args}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("ip {args}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// Hosts that reach each other through a router only. This process's own host has an address among them.
pub(crate) struct Net {
    prefix: String,
    base: String,
    sites: usize,
}

impl Net {
    /// A hub and so many sites, each with a network of its own.
    pub(crate) fn new(sites: usize) -> Self {
        let id = process::id();
        // A range that is reserved for tests of networks.
        let net = Self { prefix: format!("fg{id}"), base: format!("198.18.{}", id % 250), sites };
        net.remove();
        let router = net.name("r");
        let run = |args: String| ip(&args).unwrap();
        run(format!("netns add {router}"));
        run(format!("-n {router} link set lo up"));
        let forward = ["netns", "exec", &router, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"];
        assert!(Command::new("ip").args(forward).status().unwrap().success());
        for at in 0..sites + 2 {
            let (near, far) =
                (format!("{}.{}", net.base, 4 * at + 2), format!("{}.{}", net.base, 4 * at + 1));
            if at == 0 {
                // This process's host; the route ends with the link.
                run(format!("link add name {} type veth peer name l0 netns {router}", net.prefix));
                run(format!("addr add {near}/30 dev {}", net.prefix));
                run(format!("link set {} up", net.prefix));
            } else {
                let host = net.host(net.at(at));
                run(format!("netns add {host}"));
                run(format!("-n {host} link set lo up"));
                run(format!("-n {host} link add name eth0 type veth peer name l{at} netns {router}"));
                run(format!("-n {host} addr add {near}/30 dev eth0"));
                run(format!("-n {host} link set eth0 up"));
            }
            run(format!("-n {router} addr add {far}/30 dev l{at}"));
            run(format!("-n {router} link set l{at} up"));
            match at {
                0 => run(format!("route add {}.0/24 via {far}", net.base)),
                _ => run(format!("-n {} route add default via {far}", net.host(net.at(at)))),
            }
        }
        // A second address of the hub, for relays to reach it by.
        run(format!("-n {} addr add {}/32 dev lo", net.host(Host::Hub), net.behind()));
        run(format!("-n {router} route add {} via {}", net.behind(), net.hub()));
        net
    }

    fn at(&self, at: usize) -> Host {
        if at == 1 { Host::Hub } else { Host::Site(at - 2) }
    }

    fn name(&self, what: &str) -> String {
        format!("{}-{what}", self.prefix)
    }

    fn host(&self, host: Host) -> String {
        match host {
            Host::Hub => self.name("hub"),
            Host::Site(at) => self.name(&format!("s{at}")),
        }
    }

    fn behind(&self) -> String {
        format!("{}.250", self.base)
    }

    /// Where the coordinator listens.
    pub(crate) fn hub(&self) -> String {
        format!("{}.6", self.base)
    }

    /// This process's address among the hosts.
    pub(crate) fn own(&self) -> String {
        format!("{}.2", self.base)
    }

    /// The same command, to be run at a host.
    pub(crate) fn on(&self, host: Host, command: &Command) -> Command {
        let mut on = Command::new("ip");
        on.args(["netns", "exec", &self.host(host)]).arg(command.get_program()).args(command.get_args());
        if let Some(folder) = command.get_current_dir() {
            on.current_dir(folder);
        }
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => on.env(key, value),
                None => on.env_remove(key),
            };
        }
        on
    }

    /// The link of a site, between router and site.
    pub(crate) fn link(&self, site: usize, up: bool) {
        let state = if up { "up" } else { "down" };
        ip(&format!("-n {} link set l{} {state}", self.name("r"), site + 2)).unwrap();
    }

    /// A link of so many megabits a second from a site.
    pub(crate) fn narrow(&self, site: usize, megabits: u32) {
        let host = self.host(Host::Site(site));
        let args =
            format!("-n {host} qdisc add dev eth0 root tbf rate {megabits}mbit burst 32k latency 200ms");
        assert!(Command::new("tc").args(args.split_whitespace()).status().unwrap().success());
    }

    /// Bytes that a site has sent.
    pub(crate) fn sent(&self, site: usize) -> u64 {
        let host = self.host(Host::Site(site));
        let args = ["netns", "exec", &host, "cat", "/sys/class/net/eth0/statistics/tx_bytes"];
        let output = Command::new("ip").args(args).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
    }

    /// 80 ms of delay and 1 % of loss on a site's link. By the kernel's netem where it has it; else a relay at the site delays,
    /// and the router's packet filter loses, where there is one.
    pub(crate) fn worsen(&self, site: usize, port: u16) -> Option<Relay> {
        let (router, host) = (self.name("r"), self.host(Host::Site(site)));
        let args = format!("-n {router} qdisc add dev l{} root netem delay 80ms loss 1%", site + 2);
        if Command::new("tc").args(args.split_whitespace()).stderr(Stdio::null()).status().unwrap().success()
        {
            return None;
        }
        let loses = self.lose(site);
        let loss = match &loses {
            Ok(filter) => format!("{filter} drops one packet in a hundred each way"),
            Err(_) => "makes the pauses that loss makes, for want of iptables and nft".to_owned(),
        };
        eprintln!("a bad line: this kernel has no netem, so a relay delays by 80 ms, and {loss}");
        // What the site believes to be the hub is the relay.
        ip(&format!("-n {host} addr replace {}/32 dev lo", self.hub())).unwrap();
        let mut command = relay_command(
            &format!("{}:{port}", self.hub()),
            &format!("{}:{port}", self.behind()),
            loses.is_err(),
        );
        command = self.on(Host::Site(site), &command);
        Some(Relay::start(command))
    }

    /// The router drops one packet in a hundred from and to a site; by which filter.
    fn lose(&self, site: usize) -> Result<&'static str, String> {
        let (router, link) = (self.name("r"), format!("l{}", site + 2));
        let run = |line: String| {
            let output =
                Command::new("ip").args(["netns", "exec", &router, "sh", "-c", &line]).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            if output.status.success() { Ok(()) } else { Err(said) }
        };
        let random = "-m statistic --mode random --probability 0.01 -j DROP";
        // Asked for again for the same link, it is not doubled.
        let by_iptables = run(format!("iptables -F FORWARD && iptables -A FORWARD -i {link} {random}"))
            .and_then(|()| run(format!("iptables -A FORWARD -o {link} {random}")));
        if by_iptables.is_ok() {
            return Ok("iptables");
        }
        let chain = "add table ip bad; flush table ip bad; add chain ip bad f { type filter hook forward priority 0; }";
        let rule = |way: &str| format!("add rule ip bad f {way} {link} numgen random mod 100 < 1 drop");
        run(format!("nft '{chain}; {}; {}'", rule("iifname"), rule("oifname"))).map(|()| "nftables")
    }

    /// Packets that the router has dropped, where its filter counts them.
    pub(crate) fn lost(&self) -> Option<u64> {
        let args = ["netns", "exec", &self.name("r"), "iptables", "-nvxL", "FORWARD"];
        let output = Command::new("ip").args(args).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let dropped = text.lines().filter(|line| line.contains("DROP"));
        let counts = dropped.filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        output.status.success().then(|| counts.sum()).filter(|_| text.contains("statistic"))
    }

    fn remove(&self) {
        let hosts = (0..self.sites).map(Host::Site).chain([Host::Hub]).map(|host| self.host(host));
        for name in hosts.chain([self.name("r")]) {
            let _ = ip(&format!("netns del {name}"));
        }
        let _ = ip(&format!("link del {}", self.prefix));
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.remove();
    }
}

/// A process that passes bytes on late.
pub(crate) struct Relay(Child);

impl Relay {
    /// Between two addresses of this host.
    pub(crate) fn local(from: &str, to: &str) -> Self {
        Self::start(relay_command(from, to, true))
    }

    fn start(mut command: Command) -> Self {
        Self(command.spawn().unwrap())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `pauses` are those that loss makes.
fn relay_command(from: &str, to: &str, pauses: bool) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.env(RELAY, format!("{from} {to} {}", u8::from(pauses)));
    command
}

/// What the relay's process does; returns at once in any other.
pub(crate) fn relay() {
    let Some(way) = env::var(RELAY).ok() else { return };
    let words: Vec<&str> = way.split(' ').collect();
    let [from, to, pauses] = words[..] else { panic!("{way}") };
    let pauses = pauses == "1";
    let listener = TcpListener::bind(from).unwrap();
    for client in listener.incoming().map_while(Result::ok) {
        let Ok(server) = TcpStream::connect(to) else { continue };
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        for (from, to) in [(&client, &server), (&server, &client)] {
            let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            thread::spawn(move || pass_on(from, to, pauses));
        }
    }
    process::exit(0);
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, pauses: bool) {
    let (give, take) = mpsc::sync_channel::<(Instant, Vec<u8>)>(64);
    thread::spawn(move || {
        for (number, (at, bytes)) in take.iter().enumerate() {
            // One packet in a hundred is lost, and comes a round trip later.
            if pauses && number % 9 == 8 && bytes.len() > PIECE / 2 {
                thread::sleep(2 * WAY);
            }
            let due = at + WAY;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
    let mut buffer = vec![0; PIECE];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if give.send((Instant::now(), buffer[..count].to_vec())).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Read);
}
