//! What makes a peer one that clients are led to.

use super::*;
use crate::manager::wire::hello_proof;

const A: &str = "aaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbb";

/// A roster with a clock that is moved by hand.
struct Bench {
    roster: Roster,
    now: Instant,
    numbers: BTreeMap<String, u64>,
}

impl Bench {
    fn new() -> Self {
        Self { roster: Roster::default(), now: Instant::now(), numbers: BTreeMap::new() }
    }

    fn secret(name: &str) -> Secret {
        super::super::token::Token::parse(&format!("the token of {name} alone").replace(' ', "-")).unwrap().secret()
    }

    fn join(&mut self, name: &str) {
        let port = 5_000 + u16::from(name.as_bytes()[0]);
        let url = Place::of(([10, 0, 0, 1], port).into());
        assert!(self.roster.join(self.now, name, (url, [10, 0, 0, 1].into()), Self::secret(name)));
        self.beat(name, |_| {});
    }

    fn beat(&mut self, name: &str, change: impl FnOnce(&mut Beat)) {
        let number = self.numbers.entry(name.to_owned()).or_default();
        *number += 1;
        let mut beat = Beat { peer: name.to_owned(), number: *number, neighbours: 1, ..Beat::default() };
        change(&mut beat);
        assert!(self.roster.beat(self.now, beat).is_some());
    }

    fn found(&mut self, name: &str) {
        self.roster.dialled(self.now, name, Ok(Duration::from_millis(1)));
    }

    /// Lets the second find the first, or not.
    fn checks(&mut self, by: &str, name: &str, finds: bool) -> Option<String> {
        let check = self.roster.ask_checks(self.now, by).into_iter().find(|check| check.peer == name).unwrap();
        let secret = Self::secret(if finds { name } else { "a stranger" });
        let proof = hello_proof(&secret, &check.nonce, &check.url);
        let came = Checked { peer: name.to_owned(), nonce: check.nonce, proof, error: String::new() };
        self.roster.checked(self.now, by, &came)
    }

    fn live(&self) -> Vec<String> {
        self.roster.live(self.now).into_iter().map(|(name, _)| name).collect()
    }

    fn lead(&mut self, file: &str, not: &[String]) -> Option<String> {
        let wish = Wish { file, client: [192, 0, 2, 1].into(), not, secure: false };
        self.roster.lead(self.now, &wish).first().map(|choice| choice.name.clone())
    }

    fn pass(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    /// A and B, both taking clients.
    fn two() -> Self {
        let mut bench = Self::new();
        bench.join(A);
        bench.found(A);
        bench.join(B);
        bench.found(B);
        bench.checks(A, B, true);
        assert_eq!(bench.live(), [A, B]);
        bench
    }
}

#[test]
fn the_first_peer_is_dialled_from_here_and_the_second_from_the_first_too() {
    let mut bench = Bench::new();
    bench.join(A);
    assert!(bench.live().is_empty() && bench.lead("/f", &[]).is_none());
    assert_eq!(bench.roster.to_dial(bench.now).len(), 1);
    bench.found(A);
    assert_eq!(bench.live(), [A]);
    bench.join(B);
    bench.found(B);
    assert_eq!(bench.live(), [A], "B is not yet found by A");
    assert!(bench.roster.standing(bench.now, B).unwrap().to_string().contains("from another peer"));
    bench.checks(A, B, true);
    assert_eq!(bench.live(), [A, B]);
}

#[test]
fn clients_are_led_to_the_live_alone_whatever_changed_since_the_last_one() {
    let mut bench = Bench::two();
    let leads = |bench: &mut Bench| {
        let wish = Wish { file: "/f", client: [192, 0, 2, 1].into(), not: &[], secure: false };
        let mut led: Vec<_> = bench.roster.explain(bench.now, &wish).into_iter().map(|choice| choice.name).collect();
        led.sort();
        assert_eq!(led, bench.live());
    };
    let other = |bench: &mut Bench| bench.beat(B, |_| {});
    leads(&mut bench);
    let changes: [&dyn Fn(&mut Bench); 9] = [
        &|bench| bench.beat(A, |beat| beat.quota_left = Some(0)),
        &|bench| bench.beat(A, |beat| beat.quota_left = Some(1)),
        &|bench| bench.beat(A, |beat| beat.draining = true),
        &|bench| bench.beat(A, |_| {}),
        &|bench| bench.pass(800),
        // By time alone, the other being heard meanwhile.
        &|bench| bench.pass(800),
        &|bench| bench.beat(A, |_| {}),
        &|bench| {
            assert!((0..2).all(|_| !bench.roster.dialled(bench.now, A, Err("gone".into())) || bench.live() == [B]))
        },
        &|bench| assert!(bench.roster.eject(B, "it lied")),
    ];
    for change in changes {
        change(&mut bench);
        leads(&mut bench);
        other(&mut bench);
        leads(&mut bench);
    }
}

#[test]
fn a_peer_without_neighbours_is_led_to_after_a_while() {
    let mut bench = Bench::two();
    bench.beat(A, |beat| beat.neighbours = 0);
    bench.beat(B, |beat| beat.draining = true);
    assert_eq!(bench.lead("/f", &[]), None);
    bench.now += ALONE - LATE / 2;
    bench.beat(A, |beat| beat.neighbours = 0);
    assert_eq!(bench.lead("/f", &[]), None);
    bench.now += LATE / 2;
    assert_eq!(bench.lead("/f", &[]).as_deref(), Some(A), "nothing was said of it since");
}

#[test]
fn a_peer_that_is_not_where_it_says_gets_nobody_and_the_reason_is_kept() {
    let mut bench = Bench::new();
    bench.join(A);
    bench.roster.dialled(bench.now, A, Err("connection refused".to_owned()));
    assert!(bench.live().is_empty());
    assert!(bench.roster.standing(bench.now, A).unwrap().to_string().contains("connection refused"));
    assert!(bench.roster.to_dial(bench.now).is_empty(), "not dialled at once again");
    bench.pass(600);
    bench.beat(A, |_| {});
    assert_eq!(bench.roster.to_dial(bench.now).len(), 1);
    bench.found(A);
    assert_eq!(bench.live(), [A]);
    // Another peer's word keeps a newcomer out.
    bench.join(B);
    bench.found(B);
    bench.checks(A, B, false);
    assert_eq!(bench.live(), [A]);
    let standing = bench.roster.standing(bench.now, B).unwrap().to_string();
    assert!(standing.contains(A) && standing.contains("another machine"), "{standing}");
}

#[test]
fn one_failed_look_at_a_peer_that_beats_is_a_hiccup_two_are_not() {
    let mut bench = Bench::two();
    assert!(!bench.roster.dialled(bench.now, A, Err("late".to_owned())));
    assert_eq!(bench.live(), [A, B]);
    assert!(bench.roster.dialled(bench.now, A, Err("late".to_owned())));
    assert_eq!(bench.live(), [B]);
}

#[test]
fn a_silent_peer_gets_nobody_within_two_seconds_and_is_back_with_its_next_beat() {
    let mut bench = Bench::two();
    bench.pass(1_400);
    bench.beat(B, |_| {});
    bench.pass(599);
    assert_eq!(bench.live(), [B]);
    assert!(bench.roster.standing(bench.now, A).unwrap().to_string().contains("said nothing"));
    bench.beat(A, |_| {});
    assert_eq!(bench.live(), [A, B]);
}

#[test]
fn a_leaving_a_full_a_lonely_and_an_ejected_peer_get_nobody() {
    let mut bench = Bench::two();
    bench.beat(A, |beat| beat.draining = true);
    assert_eq!(bench.live(), [B]);
    bench.beat(A, |beat| beat.quota_left = Some(0));
    assert_eq!(bench.live(), [B]);
    bench.beat(A, |beat| beat.neighbours = 0);
    assert_eq!(bench.live(), [B]);
    bench.beat(A, |_| {});
    assert_eq!(bench.live(), [A, B]);
    assert!(bench.roster.drain(A) && bench.roster.is_to_leave(A) == (true, false));
    assert!(bench.roster.eject(B, "it lied"));
    assert!(bench.live().is_empty());
    assert_eq!(bench.roster.standing(bench.now, B), Some(Standing::Ejected("it lied".to_owned())));
    assert!(bench.roster.to_dial(bench.now).iter().all(|(name, ..)| name != B));
    assert!(!bench.roster.drain("nobody") && !bench.roster.eject("nobody", ""));
}

#[test]
fn clients_on_their_way_count_until_the_beats_can_show_them() {
    let mut bench = Bench::two();
    let mut led = BTreeMap::new();
    for _ in 0..20 {
        *led.entry(bench.lead("/f", &[]).unwrap()).or_insert(0) += 1;
    }
    assert!(led.values().all(|led| (9..=11).contains(led)), "{led:?}");
    // A has them in flight now; B's have finished.
    bench.beat(A, |beat| beat.in_flight = 10);
    bench.beat(B, |_| {});
    bench.beat(A, |beat| beat.in_flight = 10);
    bench.beat(B, |_| {});
    assert!((0..8).all(|_| bench.lead("/f", &[]).unwrap() == B));
}

#[test]
fn a_client_whose_peer_failed_is_led_elsewhere_and_the_peer_is_dialled_at_once() {
    let mut bench = Bench::two();
    for not in [A.to_owned(), "10.0.0.1:5097".to_owned(), "http://10.0.0.1:5097".to_owned()] {
        assert!(bench.roster.names(&not), "{not}");
        assert_eq!(bench.lead("/f", &[not]).as_deref(), Some(B));
    }
    assert_eq!(bench.lead("/f", &[A.to_owned(), B.to_owned()]), None);
    assert!(bench.roster.to_dial(bench.now).is_empty());
    bench.roster.complain(A);
    assert_eq!(bench.roster.to_dial(bench.now)[0].0, A);
    assert_eq!(bench.live(), [A, B], "a client's word alone takes nobody out");
}

#[test]
fn a_client_that_came_over_tls_is_led_to_nobody_who_speaks_http_alone() {
    let mut bench = Bench::two();
    let place = Place::parse("https://b.test:5001").unwrap();
    assert!(bench.roster.join(bench.now, B, (place, [10, 0, 0, 1].into()), Bench::secret(B)));
    bench.beat(B, |_| {});
    bench.found(B);
    bench.checks(A, B, true);
    let mut led = |file: &str, secure: bool| {
        let wish = Wish { file, client: [192, 0, 2, 1].into(), not: &[], secure };
        let choices = bench.roster.lead(bench.now, &wish);
        choices.into_iter().map(|choice| choice.name).collect::<Vec<_>>()
    };
    for file in 0..20 {
        let file = format!("/{file}");
        assert_eq!(led(&file, true), [B], "not even as a second choice");
        assert_eq!(led(&file, false).len(), 2, "a client of http may be led up");
    }
}

#[test]
fn records_that_are_said_again_after_a_lost_answer_count_once() {
    let mut bench = Bench::new();
    bench.join(A);
    assert_eq!(bench.roster.arrived(A, 0, 5), 0);
    assert_eq!(bench.roster.arrived(A, 0, 7), 5, "two of these are new");
    assert_eq!(bench.roster.arrived(A, 7, 1), 0);
    assert_eq!(bench.roster.arrived(A, 3, 2), 2, "none of these is");
    assert_eq!(bench.roster.arrived(A, u64::MAX, 9), 0);
    assert!(bench.roster.stop(A) && bench.roster.is_to_leave(A) == (true, true));
    assert!(!bench.roster.stop("nobody"));
}

#[test]
fn a_repeated_beat_and_a_foreign_answer_change_nothing() {
    let mut bench = Bench::two();
    let old = Beat { peer: A.to_owned(), number: 1, draining: true, ..Beat::default() };
    assert!(bench.roster.beat(bench.now, old).is_none());
    bench.pass(61_000);
    bench.beat(A, |_| {});
    bench.beat(B, |_| {});
    let check = bench.roster.ask_checks(bench.now, A).remove(0);
    let forged = Checked { peer: B.to_owned(), nonce: "0".to_owned(), proof: String::new(), error: "gone".to_owned() };
    assert_eq!(bench.roster.checked(bench.now, A, &forged), None);
    let by_other = Checked { nonce: check.nonce, ..forged };
    assert_eq!(bench.roster.checked(bench.now, B, &by_other), None);
    assert_eq!(bench.live(), [A, B]);
}

#[test]
fn peers_are_bounded_and_the_silent_forgotten() {
    let mut bench = Bench::new();
    let url = || (Place::of(([10, 0, 0, 1], 1).into()), [10, 0, 0, 1].into());
    for number in 0..PEERS {
        assert!(bench.roster.join(bench.now, &format!("{number:016x}"), url(), Bench::secret("p")));
    }
    assert!(!bench.roster.join(bench.now, "ffffffffffffffff", url(), Bench::secret("p")));
    assert!(bench.roster.join(bench.now, "0000000000000001", url(), Bench::secret("p")));
    bench.pass(600_000);
    bench.roster.forget(bench.now);
    assert!(bench.roster.views(bench.now).is_empty());
}
