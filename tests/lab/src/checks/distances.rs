//! The lab about itself: RTTs of both families as the matrix says while a fast stream flows, and nothing overtakes.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use nix::sys::socket::{setsockopt, sockopt};

use super::{
    outcome::{Wanted, percent, quantile},
    stage::{Stage, ms},
};
use crate::{
    error::{Doing, Error},
    lab::Lab,
    units::Rate,
};

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), Error> {
    let lab = stage.up(|_| ())?;
    // What else a machine does comes and goes, a router that is late does not: at short scale, where nobody answers for the machine,
    // one quiet measurement of a few is enough. Only of how soon things came: no machine makes a packet overtake another.
    let (mut measured, mut times) = (Measured::of(stage, &lab)?, 1);
    while !measured.is_in_time(stage) && times < stage.by_scale(MOST_TIMES, 1) {
        let overtaken = measured.flow.overtaken;
        (measured, times) = (Measured::of(stage, &lab)?, times + 1);
        measured.flow.overtaken = measured.flow.overtaken.max(overtaken);
    }
    measured.claims(stage);
    stage.figure("measured", f64::from(times), "times");
    let report = lab.report();
    stage.figure("handed_over_late_p95", report.late_p95_us as f64, "us");
    stage.figure("handed_over_late_worst", report.late_worst_us as f64, "us");
    Ok(())
}

/// Pings of both families beside a stream.
struct Measured {
    /// How far each echo's time was from the matrix, in milliseconds.
    errors: [(Family, Vec<f64>); 2],
    /// Echoes asked for, of each family.
    asked: usize,
    flow: Flow,
}

impl Measured {
    fn of(stage: &Stage<'_>, lab: &Lab) -> Result<Self, Error> {
        let rate = stage.by_scale(Rate::bits_per_second(50_000_000), Rate::bits_per_second(200_000_000));
        let (count, stop) = (stage.by_scale(100, 1000), AtomicBool::new(false));
        let (flow, pings) = std::thread::scope(|scope| {
            let flow = scope.spawn(|| stream(lab, "c", "d", rate, &stop));
            let pings = [Family::V4, Family::V6].map(|family| {
                // Between two of them an interrupt is heeded.
                stage.wait(Duration::ZERO)?;
                Ok::<_, Error>((family, ping_all(lab, family, count)?))
            });
            stop.store(true, Ordering::Relaxed);
            (flow.join(), pings)
        });
        let flow = flow.map_err(|_| Error::Refused { message: "the stream's thread died".into() })??;
        let [v4, v6] = pings;
        let asked = PAIRS.len() * usize::try_from(count).unwrap_or(0);
        Ok(Self { errors: [v4?, v6?], asked, flow })
    }

    /// Whether what a busy machine may spoil holds.
    fn is_in_time(&self, stage: &Stage<'_>) -> bool {
        let timed = |name: &str| TIMED.iter().any(|timed| name.ends_with(timed));
        self.figures(stage).into_iter().all(|(name, value, _, wanted)| !timed(&name) || wanted.holds(value))
    }

    fn claims(&self, stage: &mut Stage<'_>) {
        for (name, value, unit, wanted) in self.figures(stage) {
            stage.claim(name, value, unit, wanted);
        }
    }

    fn figures(&self, stage: &Stage<'_>) -> Vec<(String, f64, &'static str, Wanted)> {
        let mut figures = Vec::new();
        for (family, errors) in &self.errors {
            let (word, answered) = (family.word(), percent(errors.len(), self.asked));
            figures.push((format!("{word}/echoes_answered"), answered, "%", Wanted::AtLeast(99.0)));
            // At short scale beside whatever else the machine does; the router's own lateness stands below.
            let most = Wanted::AtMost(stage.by_scale(5.0, 1.0));
            figures.push((format!("{word}/rtt_error_p95"), quantile(errors, 0.95), "ms", most));
            figures.push((format!("{word}/rtt_error_worst"), quantile(errors, 1.0), "ms", Wanted::Nothing));
        }
        let flow = &self.flow;
        let least = Wanted::AtLeast(stage.by_scale(45.0, 195.0));
        figures.push(("stream_received".into(), flow.received_rate / 1e6, "Mbit/s", least));
        figures.push(("stream_sent".into(), flow.sent_rate / 1e6, "Mbit/s", Wanted::Nothing));
        let lost = f64::from(flow.sent - flow.received);
        figures.push(("stream_lost".into(), lost, "", Wanted::AtMost(f64::from(flow.sent) / 100.0)));
        figures.push(("overtaken".into(), f64::from(flow.overtaken), "", Wanted::Exactly(0.0)));
        figures
    }
}

#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn word(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }
}

/// How far each echo's time is from the matrix, in milliseconds, of all pairs at once.
fn ping_all(lab: &Lab, family: Family, count: u32) -> Result<Vec<f64>, Error> {
    std::thread::scope(|scope| {
        let pinging = PAIRS.map(|(from, to)| scope.spawn(move || ping(lab, from, to, family, count)));
        let died = |_| Err(Error::Refused { message: "a ping's thread died".into() });
        let errors = pinging.into_iter().map(|thread| thread.join().unwrap_or_else(died));
        Ok(errors.collect::<Result<Vec<_>, _>>()?.concat())
    })
}

/// The same of one pair; what was not answered is missing.
fn ping(lab: &Lab, from: &str, to: &str, family: Family, count: u32) -> Result<Vec<f64>, Error> {
    let (from, to) = (lab.scenario().host(from)?, lab.scenario().host(to)?);
    let target = match family {
        Family::V4 => to.id.v4().to_string(),
        Family::V6 => to.id.v6().to_string(),
    };
    let output = lab.run(&from.name, &["ping", "-n", "-i", "0.02", "-W", "2", "-c", &count.to_string(), &target])?;
    let wanted = ms(lab.scenario().rtt(from.id, to.id));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let time = |line: &str| line.split("time=").nth(1)?.split(' ').next()?.parse::<f64>().ok();
    Ok(text.lines().filter_map(time).map(|time| (time - wanted).abs()).collect())
}

/// What was sent, what came, and what came after a later one; rates in bits a second, of what the datagrams held.
struct Flow {
    sent: u32,
    received: u32,
    overtaken: u32,
    sent_rate: f64,
    received_rate: f64,
}

/// Sends numbered datagrams of 1400 bytes until told to stop.
fn stream(lab: &Lab, from: &str, to: &str, rate: Rate, stop: &AtomicBool) -> Result<Flow, Error> {
    let address = SocketAddr::new(lab.scenario().host(to)?.id.v4().into(), 9000);
    let bind = |address| UdpSocket::bind(address).doing(|| "open a UDP socket".into());
    let receiver = lab.within(to, || bind(address))??;
    receiver.set_read_timeout(Some(Duration::from_secs(1))).doing(|| "set a timeout".into())?;
    // The stream is judged for what the router does to it, not for how soon a busy machine wakes its reader.
    setsockopt(&receiver, sockopt::RcvBufForce, &(16 << 20)).doing(|| "enlarge a socket's buffer".into())?;
    let sender = lab.within(from, || bind(SocketAddr::from(([0, 0, 0, 0], 0))))??;
    std::thread::scope(|scope| {
        let received = scope.spawn(move || receive(&receiver));
        let (start, mut packet, mut sent) = (Instant::now(), [0; LENGTH], 0u32);
        while !stop.load(Ordering::Relaxed) {
            while rate.time_for(packet.len()) * sent < start.elapsed() {
                packet[..4].copy_from_slice(&sent.to_be_bytes());
                // A full queue loses it, as the receiver will count.
                let _ = sender.send_to(&packet, address);
                sent += 1;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        let took = start.elapsed();
        let received = received.join().map_err(|_| Error::Refused { message: "the receiver died".into() })?;
        let rate = |count: u32, time: Duration| f64::from(count) * LENGTH as f64 * 8.0 / time.as_secs_f64();
        Ok(Flow {
            sent,
            received: received.count,
            overtaken: received.overtaken,
            sent_rate: rate(sent, took),
            // The first opens the time that the others take.
            received_rate: rate(received.count.saturating_sub(1), received.took),
        })
    })
}

#[derive(Default)]
struct Received {
    count: u32,
    overtaken: u32,
    /// From the first to the last.
    took: Duration,
}

fn receive(socket: &UdpSocket) -> Received {
    let (mut received, mut highest, mut first) = (Received::default(), 0, None);
    let mut buffer = [0; 2048];
    while socket.recv(&mut buffer).is_ok() {
        let number = u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
        received.count += 1;
        received.overtaken += u32::from(number < highest);
        received.took = first.get_or_insert_with(Instant::now).elapsed();
        highest = highest.max(number);
    }
    received
}

/// Near and far, into and out of the ends of the stream.
const PAIRS: [(&str, &str); 4] = [("a", "b"), ("c", "a"), ("e", "b"), ("d", "e")];
/// Bytes in a datagram of the stream.
const LENGTH: usize = 1400;
/// The ends of the names of figures for which all is measured again.
const TIMED: [&str; 2] = ["rtt_error_p95", "stream_received"];
/// How often it is measured at most at short scale.
const MOST_TIMES: u32 = 4;
