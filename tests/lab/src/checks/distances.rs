//! The lab about itself: RTTs as the matrix says while a fast stream flows between two other hosts, and nothing overtakes.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use nix::sys::socket::{setsockopt, sockopt};

use super::{
    outcome::{Wanted, quantile},
    stage::{Stage, ms},
};
use crate::{
    error::{Doing, Error},
    lab::Lab,
    units::Rate,
};

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), Error> {
    let lab = stage.up(|_| ())?;
    let rate = stage.by_scale(Rate::bits_per_second(50_000_000), Rate::bits_per_second(200_000_000));
    let stop = AtomicBool::new(false);
    let (flow, errors) = std::thread::scope(|scope| {
        let flow = scope.spawn(|| stream(&lab, "c", "d", rate, &stop));
        let errors = [("a", "b"), ("c", "a"), ("e", "b"), ("d", "e")].map(|(from, to)| {
            // Between two of them an interrupt is heeded.
            stage.wait(Duration::ZERO)?;
            ping(&lab, from, to, stage.by_scale(100, 500))
        });
        stop.store(true, Ordering::Relaxed);
        (flow.join(), errors)
    });
    let errors: Vec<f64> = errors.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
    let flow = flow.map_err(|_| Error::Refused { message: "the stream's thread died".into() })??;
    // At short scale beside whatever else the machine does; the router's own lateness stands below.
    stage.claim("rtt_error_p95", quantile(&errors, 0.95), "ms", Wanted::AtMost(stage.by_scale(5.0, 1.0)));
    stage.figure("rtt_error_worst", quantile(&errors, 1.0), "ms");
    stage.figure("stream_rate", flow.rate / 1e6, "Mbit/s");
    stage.claim("stream_lost", f64::from(flow.sent - flow.received), "", Wanted::AtMost(f64::from(flow.sent) / 100.0));
    stage.claim("overtaken", f64::from(flow.overtaken), "", Wanted::Exactly(0.0));
    let report = lab.report();
    stage.figure("handed_over_late_p95", report.late_p95_us as f64, "us");
    stage.figure("handed_over_late_worst", report.late_worst_us as f64, "us");
    Ok(())
}

/// How far each echo's time is from the matrix, in milliseconds.
fn ping(lab: &Lab, from: &str, to: &str, count: u32) -> Result<Vec<f64>, Error> {
    let (from, to) = (lab.scenario().host(from)?, lab.scenario().host(to)?);
    let (count, target) = (count.to_string(), to.id.v4().to_string());
    let output = lab.run(&from.name, &["ping", "-n", "-i", "0.02", "-W", "2", "-c", &count, &target])?;
    let wanted = ms(lab.scenario().rtt(from.id, to.id));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let time = |line: &str| line.split("time=").nth(1)?.split(' ').next()?.parse::<f64>().ok();
    Ok(text.lines().filter_map(time).map(|time| (time - wanted).abs()).collect())
}

struct Flow {
    sent: u32,
    received: u32,
    overtaken: u32,
    rate: f64,
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
        let (start, mut packet, mut sent) = (Instant::now(), [0; 1400], 0u32);
        while !stop.load(Ordering::Relaxed) {
            while rate.time_for(packet.len()) * sent < start.elapsed() {
                packet[..4].copy_from_slice(&sent.to_be_bytes());
                // A full queue loses it, as the receiver will count.
                let _ = sender.send_to(&packet, address);
                sent += 1;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        let rate = f64::from(sent) * packet.len() as f64 * 8.0 / start.elapsed().as_secs_f64();
        let (received, overtaken) =
            received.join().map_err(|_| Error::Refused { message: "the receiver died".into() })?;
        Ok(Flow { sent, received, overtaken, rate })
    })
}

fn receive(socket: &UdpSocket) -> (u32, u32) {
    let (mut received, mut overtaken, mut highest) = (0, 0, 0);
    let mut buffer = [0; 2048];
    while socket.recv(&mut buffer).is_ok() {
        let number = u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
        received += 1;
        overtaken += u32::from(number < highest);
        highest = highest.max(number);
    }
    (received, overtaken)
}
