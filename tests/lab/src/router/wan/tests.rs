//! The wide area in virtual time.

use super::*;
use crate::units::{Rate, Size};

/// Builds a wide area of three hosts, 10 ms apart one way, and collects what arrives until `until`.
struct Bench {
    wan: Wan,
    now: Duration,
    arrived: Vec<(Duration, HostId, u32)>,
}

impl Bench {
    fn new(weather: Weather, up: Option<Rate>, down: Option<Rate>) -> Self {
        let queue = Size(30_000);
        let access = || Access { up: Link::new(up, queue), down: Link::new(down, queue) };
        let weather = Weather { most_under_way: weather.most_under_way.max(20), ..weather };
        let wan = Wan::new(vec![access(), access(), access()], |_, _| ms(10), weather, 7);
        Self { wan, now: Duration::ZERO, arrived: Vec::new() }
    }

    fn send(&mut self, from: usize, to: usize, number: u32, length: usize) {
        self.wan.handle_packet(self.now, host(from), packet(from, to, number, length));
    }

    fn run_until(&mut self, until: Duration) {
        while let Some(due) = self.wan.poll_timeout().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            while let Some(delivery) = self.wan.poll_delivery(self.now) {
                let number = u32::from_be_bytes(delivery.packet[20..24].try_into().unwrap());
                self.arrived.push((self.now, delivery.to, number));
            }
        }
        self.now = until;
    }

    fn numbers(&self) -> Vec<u32> {
        self.arrived.iter().map(|(_, _, number)| *number).collect()
    }

    fn counters(&self, host: usize) -> Counters {
        self.wan.counters().nth(host).unwrap().clone()
    }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn host(index: usize) -> HostId {
    HostId::new(index).unwrap()
}

fn packet(from: usize, to: usize, number: u32, length: usize) -> Vec<u8> {
    let mut packet = vec![0u8; length.max(24)];
    packet[0] = 0x45;
    packet[12..16].copy_from_slice(&host(from).v4().octets());
    packet[16..20].copy_from_slice(&host(to).v4().octets());
    packet[20..24].copy_from_slice(&number.to_be_bytes());
    packet
}

fn calm() -> Weather {
    Weather { most_under_way: 100_000, ..Weather::default() }
}

#[test]
fn a_packet_arrives_exactly_one_way_delay_later() {
    let mut bench = Bench::new(calm(), None, None);
    bench.run_until(ms(3));
    bench.send(0, 1, 1, 100);
    bench.run_until(ms(50));
    assert_eq!(bench.arrived, [(ms(13), host(1), 1)]);
}

#[test]
fn jitter_delays_but_never_reorders_a_pair() {
    let mut bench = Bench::new(Weather { jitter: ms(5), ..calm() }, None, None);
    for number in 0..2000 {
        bench.send(0, 1, number, 100);
        bench.run_until(bench.now + Duration::from_micros(200));
    }
    bench.run_until(Duration::from_secs(2));
    assert_eq!(bench.numbers(), (0..2000).collect::<Vec<_>>());
}

#[test]
fn reordering_happens_when_asked() {
    let mut bench = Bench::new(Weather { reorder: 0.05, reorder_by: ms(2), ..calm() }, None, None);
    for number in 0..1000 {
        bench.send(0, 1, number, 100);
        bench.run_until(bench.now + ms(1));
    }
    bench.run_until(Duration::from_secs(2));
    let overtaken = bench.numbers().windows(2).filter(|pair| pair[1] < pair[0]).count();
    assert!((20..100).contains(&overtaken), "{overtaken}");
    assert_eq!(bench.arrived.len(), 1000);
}

#[test]
fn loss_takes_its_share_and_is_counted() {
    let mut bench = Bench::new(Weather { loss: 0.1, ..calm() }, None, None);
    (0..10_000).for_each(|number| bench.send(0, 1, number, 100));
    bench.run_until(ms(100));
    let lost = bench.counters(0).lost;
    assert!((850..1150).contains(&lost), "{lost}");
    assert_eq!(bench.arrived.len() as u64 + lost, 10_000);
}

#[test]
fn an_uplink_sends_no_faster_than_its_rate_and_its_queue_is_bounded() {
    let mut bench = Bench::new(calm(), Some(Rate::bits_per_second(384_000)), None);
    (0..100).for_each(|number| bench.send(0, 1, number, 1000));
    bench.run_until(Duration::from_secs(10));
    // 30,000 bytes wait behind the packet being sent; each takes 20.8 ms.
    assert_eq!(bench.arrived.len(), 31);
    assert_eq!(bench.counters(0).queue_full, 69);
    let last = bench.arrived.last().unwrap().0;
    let expected = ms(10) + Rate::bits_per_second(384_000).time_for(31_000);
    assert!(expected.abs_diff(last) < Duration::from_micros(1), "{last:?}");
}

#[test]
fn a_downlink_is_shared_by_its_senders() {
    let mut bench = Bench::new(calm(), None, Some(Rate::bits_per_second(80_000)));
    bench.send(0, 2, 1, 1000);
    bench.send(1, 2, 2, 1000);
    bench.run_until(Duration::from_secs(1));
    let times: Vec<_> = bench.arrived.iter().map(|(at, ..)| *at).collect();
    assert_eq!(times, [ms(110), ms(210)]);
}

#[test]
fn a_router_that_is_late_lets_nothing_overtake_in_a_downlink() {
    let mut bench = Bench::new(calm(), None, Some(Rate::bits_per_second(80_000)));
    bench.send(0, 2, 1, 1000);
    bench.run_until(ms(50));
    bench.send(0, 2, 2, 1000);
    // By the next look both have been due for long.
    bench.now = ms(400);
    bench.run_until(ms(500));
    assert_eq!(bench.numbers(), [1, 2]);
}

#[test]
fn a_cut_is_one_way_and_takes_what_is_under_way() {
    let mut bench = Bench::new(calm(), None, None);
    bench.send(0, 1, 1, 100);
    bench.wan.set_cut(host(0), host(1), true);
    bench.send(0, 1, 2, 100);
    bench.send(1, 0, 3, 100);
    bench.run_until(ms(20));
    assert_eq!(bench.numbers(), [3]);
    assert_eq!(bench.counters(0).cut, 2);
    bench.wan.heal();
    bench.send(0, 1, 4, 100);
    bench.run_until(ms(40));
    assert_eq!(bench.numbers(), [3, 4]);
}

#[test]
fn a_slow_host_is_late_both_ways() {
    let mut bench = Bench::new(calm(), None, None);
    bench.wan.set_slow(host(1), ms(100));
    bench.send(0, 1, 1, 100);
    bench.send(1, 2, 2, 100);
    bench.send(0, 2, 3, 100);
    bench.run_until(Duration::from_secs(1));
    let times: Vec<_> = bench.arrived.iter().map(|(at, ..)| *at).collect();
    assert_eq!(times, [ms(10), ms(110), ms(110)]);
}

#[test]
fn what_is_under_way_is_bounded() {
    let mut bench = Bench::new(Weather { most_under_way: 50, ..calm() }, None, None);
    (0..80).for_each(|number| bench.send(0, 1, number, 100));
    assert_eq!(bench.wan.under_way(), 50);
    assert_eq!(bench.counters(0).no_room, 30);
}

#[test]
fn packets_for_nobody_or_under_a_false_name_go_nowhere() {
    let mut bench = Bench::new(calm(), None, None);
    bench.wan.handle_packet(bench.now, host(0), packet(1, 2, 1, 100));
    bench.wan.handle_packet(bench.now, host(0), packet(0, 9, 2, 100));
    bench.wan.handle_packet(bench.now, host(0), vec![0x45; 10]);
    assert_eq!(bench.wan.under_way(), 0);
    assert_eq!((bench.counters(0).spoofed, bench.counters(0).no_route), (1, 2));
}
