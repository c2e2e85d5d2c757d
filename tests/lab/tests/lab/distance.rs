//! Distances, cuts and the absence of a way out.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use atoll_lab::{Change, Host, Lab};

use crate::{alone, skipped, up};

/// What `ping` rounds away: from 100 ms on it prints whole milliseconds.
const EARLY: Duration = Duration::from_micros(600);

const FOUR: &str = r#"
host = [
    { name = "a", role = "plain", at = 0 },
    { name = "b", role = "plain", at = 7 },
    { name = "c", role = "plain", at = 100 },
    { name = "d", role = "plain", at = 101 },
]
"#;

fn host<'l>(lab: &'l Lab, name: &str) -> &'l Host {
    lab.scenario().host(name).unwrap()
}

/// The RTTs that `ping` printed.
fn ping(lab: &Lab, from: &str, to: IpAddr, count: u32) -> Vec<Duration> {
    let count = count.to_string();
    let output = lab.run(from, &["ping", "-n", "-i", "0.02", "-W", "10", "-c", &count, &to.to_string()]).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let time = |line: &str| line.split("time=").nth(1)?.split(' ').next()?.parse::<f64>().ok();
    text.lines().filter_map(time).map(|ms| Duration::from_secs_f64(ms / 1e3)).collect()
}

/// Sends numbered datagrams from `from` to `to` until told to stop; returns how many were sent, how many came, and how many
/// came after a later one.
fn flood(lab: &Lab, from: &str, to: &str, bits_per_second: u64, stop: &AtomicBool) -> (u32, u32, u32) {
    const LENGTH: usize = 1400;
    let address = SocketAddr::new(host(lab, to).id.v4().into(), 9000);
    let receiver = lab.within(to, || UdpSocket::bind(address)).unwrap().unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let sender = lab.within(from, || UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    std::thread::scope(|scope| {
        let received = scope.spawn(move || {
            let (mut count, mut late, mut highest) = (0, 0, 0);
            let mut buffer = [0; 2048];
            while let Ok(length) = receiver.recv(&mut buffer) {
                assert_eq!(length, LENGTH);
                let number = u32::from_be_bytes(buffer[..4].try_into().unwrap());
                count += 1;
                late += u32::from(number < highest);
                highest = highest.max(number);
            }
            (count, late)
        });
        let start = Instant::now();
        let mut packet = [0; LENGTH];
        let mut sent = 0u32;
        while !stop.load(Ordering::Relaxed) {
            let due = start.elapsed().as_secs_f64() * bits_per_second as f64 / (8.0 * LENGTH as f64);
            while f64::from(sent) < due {
                packet[..4].copy_from_slice(&sent.to_be_bytes());
                sender.send_to(&packet, address).unwrap();
                sent += 1;
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        let (count, late) = received.join().unwrap();
        (sent, count, late)
    })
}

#[test]
fn pings_take_the_matrix_rtt_while_udp_flows_and_nothing_overtakes() {
    if skipped("ping RTTs within 1 ms of the matrix") {
        return;
    }
    let _alone = alone();
    let lab = up(FOUR);
    let stop = AtomicBool::new(false);
    let (flow, pings) = std::thread::scope(|scope| {
        let flow = scope.spawn(|| flood(&lab, "c", "d", FLOW, &stop));
        let mut pings = Vec::new();
        for (from, to) in [("a", "b"), ("c", "a"), ("d", "c")] {
            let wanted = lab.scenario().rtt(host(&lab, from).id, host(&lab, to).id);
            for target in [IpAddr::V4(host(&lab, to).id.v4()), IpAddr::V6(host(&lab, to).id.v6())] {
                pings.push((from, to, wanted, ping(&lab, from, target, 100)));
            }
        }
        stop.store(true, Ordering::Relaxed);
        (flow.join().unwrap(), pings)
    });
    for (from, to, wanted, rtts) in pings {
        assert!(rtts.len() >= 99, "{from} -> {to}: {} of 100 pings came back", rtts.len());
        let mut errors: Vec<Duration> = rtts.iter().map(|rtt| rtt.abs_diff(wanted)).collect();
        errors.sort_unstable();
        let p95 = errors[errors.len() * 95 / 100 - 1];
        eprintln!("{from} -> {to}: matrix {wanted:?}, p95 of the error {p95:?}, worst {:?}", errors.last());
        // How late the rest comes is the machine's affair as well; `lab run distances` holds the p95 to 1 ms.
        let (least, earliest) = (errors[0], *rtts.iter().min().unwrap());
        assert!(least < Duration::from_millis(1), "{from} -> {to}: no ping within 1 ms of {wanted:?}: {least:?} off");
        assert!(earliest + EARLY > wanted, "{from} -> {to}: {earliest:?} is sooner than {wanted:?}");
    }
    let (sent, received, late) = flow;
    eprintln!("flow: {sent} sent, {received} received, {late} overtaken; {:?}", lab.report());
    assert_eq!(late, 0, "packets were reordered");
    assert!(received > 1000 && f64::from(received) > 0.9 * f64::from(sent), "{received} of {sent} came");
}

#[test]
fn cuts_are_in_force_at_once_and_heal() {
    if skipped("cut, cut one way, cut sets, heal, slow") {
        return;
    }
    let _alone = alone();
    let lab = up(FOUR);
    let (a, b, c, d) = (host(&lab, "a").id, host(&lab, "b").id, host(&lab, "c").id, host(&lab, "d").id);
    let sockets = ["a", "b", "c", "d"].map(|name| {
        let address = SocketAddr::new(host(&lab, name).id.v4().into(), 9000);
        let socket = lab.within(name, || UdpSocket::bind(address)).unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(1500))).unwrap();
        (socket, address)
    });
    let socket = |name: &str| &sockets[["a", "b", "c", "d"].iter().position(|known| *known == name).unwrap()];
    // The first packet may be lost on purpose; the second, sent after healing, shows that the first never comes.
    let heard = |from: &str, to: &str, number: u8| {
        let (sender, (receiver, address)) = (&socket(from).0, socket(to));
        sender.send_to(&[number], address).unwrap();
        let mut buffer = [0; 8];
        receiver.recv(&mut buffer).ok().map(|_| buffer[0])
    };
    let silent = |from: &str, to: &str| socket(from).0.send_to(&[0], socket(to).1).map(drop).unwrap();

    lab.change(Change::Cut { from: vec![a], to: vec![b], one_way: true });
    silent("a", "b");
    assert_eq!(heard("b", "a", 1), Some(1));
    lab.change(Change::HealAll);
    assert_eq!(heard("a", "b", 2), Some(2));

    lab.change(Change::Cut { from: vec![a, b], to: vec![c, d], one_way: false });
    for (from, to) in [("a", "c"), ("d", "b"), ("b", "d")] {
        silent(from, to);
    }
    assert_eq!(heard("a", "b", 3), Some(3));
    assert_eq!(heard("c", "d", 4), Some(4));
    lab.change(Change::Heal { from: vec![a, b], to: vec![c, d] });
    for (from, to) in [("a", "c"), ("d", "b"), ("b", "d")] {
        assert_eq!(heard(from, to, 5), Some(5));
    }
    let cut: u64 = lab.report().counters.iter().map(|counters| counters.cut).sum();
    assert_eq!((cut, lab.report().cuts), (4, 0));

    lab.change(Change::Slow { host: a, extra: Duration::from_millis(300) });
    let start = Instant::now();
    assert_eq!(heard("a", "b", 6), Some(6));
    assert!(start.elapsed() >= lab.scenario().one_way(a, b) + Duration::from_millis(300));
}

#[test]
fn no_host_can_leave_the_lab_or_pretend_to_be_another() {
    if skipped("no route leads out") {
        return;
    }
    let _alone = alone();
    let lab = up(FOUR);
    for target in ["8.8.8.8:53", "10.0.0.1:80", "127.0.0.1:1", "[2001:4860:4860::8888]:53", "[fe80::1]:1"] {
        let target: SocketAddr = target.parse().unwrap();
        let reached = lab.within("a", || {
            let socket = UdpSocket::bind(if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
            socket.connect(target).is_ok()
        });
        assert_eq!(reached.unwrap(), target.ip().is_loopback(), "{target}");
    }
    // A false address can be set; the router drops what carries it.
    let (b, c) = (host(&lab, "b").id.v4(), host(&lab, "c").id.v4());
    assert!(lab.run("a", &["ip", "addr", "add", &format!("{b}/32"), "dev", "lo"]).unwrap().status.success());
    lab.within("a", || UdpSocket::bind((b, 0)).unwrap().send_to(b"x", (c, 9)).unwrap()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while lab.report().counters[0].spoofed == 0 {
        assert!(Instant::now() < deadline, "the router never saw it");
        std::thread::yield_now();
    }
    assert_eq!(lab.report().counters[2].received, 0);
}

/// In CI beside other work; `lab run distances --long` does 200 Mbit/s.
const FLOW: u64 = 20_000_000;
