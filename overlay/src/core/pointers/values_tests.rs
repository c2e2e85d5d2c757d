//! Full and loaded as the paper defines them, and what is over a cap.

use proptest::prelude::*;

use super::*;
use crate::NodeId;

const KEY: Key = Key::ZERO;
const L0: Level = Level::GLOBAL;

/// A store-intent by the paper's rules.
const PUBLISHED: Intent =
    Intent { from: Peer(1_000), ttl: Duration::from_secs(60), near: true, promise: false, leaks: true };

fn at(seconds: u64) -> Instant {
    Instant::at(Duration::from_secs(seconds))
}

fn pointer(peer: u32, seconds: u64) -> Pointer {
    let holder = Contact { peer: Peer(peer), id: NodeId::of("test", 0, &peer.to_be_bytes()) };
    let ttl = Duration::from_secs(seconds);
    Pointer { holder, clusters: Vec::new(), value: Bytes::from_static(b"value"), ttl }
}

fn key(number: u32) -> Key {
    Key::of(&number.to_be_bytes())
}

fn stored(values: &mut Values, now: Instant, peer: u32, seconds: u64) -> Result<Verdict, Refusal> {
    values.store(now, L0, KEY, pointer(peer, seconds))
}

#[test]
fn a_key_is_full_when_l_values_have_at_least_half_the_new_ones_time_left() {
    let mut values = Values::new(&Config::default());
    (1..=4).for_each(|peer| assert_eq!(stored(&mut values, at(0), peer, 60), Ok(Verdict::Accepted)));
    // 60 s are left, half of 120.
    assert_eq!(stored(&mut values, at(0), 5, 120), Ok(Verdict::Full));
    assert_eq!(stored(&mut values, at(0), 5, 121), Ok(Verdict::Accepted), "a longer one displaces the shortest");
    assert_eq!(values.get(at(0), L0, KEY).len(), 4);
    // Once 31 s have passed, 29 are left: less than half of 60.
    assert_eq!(stored(&mut values, at(31), 6, 60), Ok(Verdict::Accepted));
}

#[test]
fn a_one_hour_reference_displaces_a_twenty_second_one() {
    let mut values = Values::new(&Config::default());
    (1..=4).for_each(|peer| assert_eq!(stored(&mut values, at(0), peer, 20), Ok(Verdict::Accepted)));
    assert_eq!(stored(&mut values, at(1), 9, 3_600), Ok(Verdict::Accepted));
    let longest = values.get(at(1), L0, KEY).into_iter().map(|one| one.ttl).max();
    assert_eq!(longest, Some(Duration::from_secs(3_600)));
}

#[test]
fn a_holder_renews_its_own_value_even_where_the_key_is_full() {
    let mut values = Values::new(&Config::default());
    (1..=4).for_each(|peer| assert_eq!(stored(&mut values, at(0), peer, 60), Ok(Verdict::Accepted)));
    assert_eq!(stored(&mut values, at(10), 2, 60), Ok(Verdict::Accepted));
    assert_eq!(values.get(at(10), L0, KEY).len(), 4);
}

#[test]
fn a_key_is_loaded_once_beta_intents_were_let_go_on_within_a_minute_and_no_longer() {
    let mut values = Values::new(&Config::default());
    assert_eq!(stored(&mut values, at(0), 1, 600), Ok(Verdict::Accepted));
    for second in 0..12 {
        assert!(!values.room(at(second), L0, KEY, PUBLISHED).loaded, "intent {second}");
    }
    for second in 12..60 {
        assert!(values.room(at(second), L0, KEY, PUBLISHED).loaded, "at {second} s");
    }
    // The first was let go on a minute ago: one more may leak, the next not.
    assert!(!values.room(at(60), L0, KEY, PUBLISHED).loaded);
    assert!(values.room(at(60), L0, KEY, PUBLISHED).loaded);
    assert!(!values.room(at(60), Level(1), KEY, PUBLISHED).loaded, "each level has its own count");
}

#[test]
fn a_putter_has_one_value_under_a_key_but_in_mode_paper_where_two_values_are_two() {
    for (mode, left) in [(Mode::Best, 1), (Mode::Paper, 4)] {
        let mut values = Values::new(&Config { mode, ..Config::default() });
        let mut store = |value: u8| {
            let value = Bytes::from(vec![value]);
            values.store(at(0), L0, KEY, Pointer { value, ..pointer(1, 60) }).unwrap()
        };
        let verdicts: Vec<Verdict> = (0..6).map(&mut store).collect();
        assert_eq!(verdicts[5], if left == 1 { Verdict::Accepted } else { Verdict::Full });
        assert_eq!(store(0), Verdict::Accepted, "the same value is only renewed");
        assert_eq!(values.get(at(0), L0, KEY).len(), left);
    }
}

#[test]
fn asking_for_room_leaves_no_key_and_a_bounded_count_behind() {
    let mut values = Values::new(&Config::default());
    (0..10_000).for_each(|number| assert!(!values.room(at(0), L0, key(number), PUBLISHED).loaded));
    assert_eq!((values.keys(), values.asked()), (0, 4_096));
    values.sweep(at(60));
    assert_eq!(values.asked(), 0);
}

#[test]
fn room_tells_how_many_values_there_are_and_the_shortest_time_left() {
    let mut values = Values::new(&Config::default());
    assert_eq!(values.room(at(0), L0, KEY, PUBLISHED), Room { loaded: false, count: 0, soonest: Duration::ZERO });
    (1..=3).for_each(|peer| assert_eq!(stored(&mut values, at(0), peer, 100 + u64::from(peer)), Ok(Verdict::Accepted)));
    let room = values.room(at(40), L0, KEY, PUBLISHED);
    assert_eq!(room, Room { loaded: false, count: 3, soonest: Duration::from_secs(61) });
}

#[test]
fn a_million_pointers_for_one_key_leave_l_values() {
    let mut values = Values::new(&Config::default());
    for peer in 0..1_000_000 {
        let verdict = stored(&mut values, at(0), peer, 60);
        assert_eq!(verdict, Ok(if peer < 4 { Verdict::Accepted } else { Verdict::Full }));
    }
    assert_eq!((values.len(), values.keys()), (4, 1));
}

#[test]
fn past_the_cap_on_keys_new_ones_are_refused_and_old_ones_stay() {
    let config = Config { keys: 100, ..Config::default() };
    let mut values = Values::new(&config);
    for number in 0..100_000 {
        let result = values.store(at(0), L0, key(number), pointer(number, 60));
        assert_eq!(result, if number < 100 { Ok(Verdict::Accepted) } else { Err(Refusal::Keys) });
        values.room(at(0), L0, key(number + 1_000_000), PUBLISHED);
    }
    assert_eq!((values.len(), values.keys()), (100, 100));
    assert_eq!(values.get(at(0), L0, key(7)).len(), 1);
    // Room comes with expiry, without waiting for the next sweep.
    assert_eq!(values.store(at(61), L0, key(500), pointer(1, 60)), Ok(Verdict::Accepted));
}

#[test]
fn past_the_caps_on_bytes_and_on_one_senders_pointers_it_is_refused_with_the_reason() {
    let config = Config { value_bytes: 10 * (5 + OVERHEAD), ..Config::default() };
    let mut values = Values::new(&config);
    for number in 0..10 {
        assert_eq!(values.store(at(0), L0, key(number), pointer(number, 60)), Ok(Verdict::Accepted));
    }
    assert_eq!(values.store(at(0), L0, key(10), pointer(10, 60)), Err(Refusal::Bytes));
    assert_eq!(values.store(at(0), L0, key(3), pointer(3, 90)), Ok(Verdict::Accepted), "its own place is its own");

    let config = Config { values_per_peer: 2, ..Config::default() };
    let mut values = Values::new(&config);
    for number in 0..2 {
        assert_eq!(values.store(at(0), L0, key(number), pointer(1, 60)), Ok(Verdict::Accepted));
    }
    assert_eq!(values.store(at(0), L0, key(2), pointer(1, 60)), Err(Refusal::Sender));
    assert_eq!(values.store(at(0), L0, key(2), pointer(2, 60)), Ok(Verdict::Accepted));
    values.withdraw(key(0), Peer(1));
    assert_eq!(values.store(at(0), L0, key(2), pointer(1, 60)), Ok(Verdict::Accepted), "a withdrawal makes room");
}

#[test]
fn a_value_or_a_time_over_the_limit_is_refused() {
    let mut values = Values::new(&Config::default());
    let long = Pointer { value: Bytes::from(vec![0; Pointer::LIMIT + 1]), ..pointer(1, 60) };
    assert_eq!(values.store(at(0), L0, KEY, long), Err(Refusal::TooLong));
    assert_eq!(stored(&mut values, at(0), 1, 24 * 3_600 + 1), Err(Refusal::TooLong));
}

#[test]
fn an_expired_value_is_never_returned_and_sweeping_leaves_nothing() {
    let mut values = Values::new(&Config::default());
    assert_eq!(stored(&mut values, at(0), 1, 60), Ok(Verdict::Accepted));
    assert_eq!(values.get(at(59), L0, KEY).len(), 1);
    assert_eq!(values.get(at(60), L0, KEY).len(), 0);
    values.sweep(at(60));
    assert_eq!((values.len(), values.keys(), values.bytes), (0, 0, 0));
}

#[test]
fn a_free_place_is_promised_to_one_putter_at_a_time_and_only_for_a_moment() {
    let mut values = Values::new(&Config::default());
    let best = |peer: u32| Intent { from: Peer(peer), promise: true, ..PUBLISHED };
    for peer in 1..=4 {
        assert_eq!(values.room(at(0), L0, KEY, best(peer)).count, peer - 1);
    }
    let late = values.room(at(0), L0, KEY, best(5));
    assert_eq!((late.count, late.soonest), (4, PUBLISHED.ttl), "full of what is to come");
    // Two come, one asks again, the others change their minds.
    assert_eq!(stored(&mut values, at(1), 1, 60), Ok(Verdict::Accepted));
    assert_eq!(stored(&mut values, at(1), 2, 60), Ok(Verdict::Accepted));
    assert_eq!(values.room(at(1), L0, KEY, best(3)).count, 3, "its own promise does not count against it");
    assert_eq!(values.room(at(5), L0, KEY, best(5)).count, 2);
    assert_eq!(
        values.room(at(20), L0, KEY, best(2)).count,
        1,
        "one value of another, and the promise to 5 is long over"
    );
}

#[test]
fn of_a_crowd_within_moments_half_of_beta_go_on() {
    let mut values = Values::new(&Config::default());
    let best = |peer: u32| Intent { from: Peer(peer), promise: true, ..PUBLISHED };
    let gone_on = |values: &mut Values, second| {
        (0..100).filter(|peer| !values.room(at(second), L0, KEY, best(*peer)).loaded).count()
    };
    assert_eq!([0, 1, 5, 10].map(|second| gone_on(&mut values, second)), [6, 0, 6, 0], "beta a minute in all");
}

proptest! {
    /// Law 4.
    #[test]
    fn a_store_never_passes_its_caps_and_returns_nothing_that_has_expired(
        stores in prop::collection::vec((0_u32..6, 0_u32..6, 0_u8..3, 0_u64..40, 0_u64..15, 0_usize..=Pointer::LIMIT), 0..200),
    ) {
        let caps = Config { values_per_key: 2, keys: 5, value_bytes: 1_500, values_per_peer: 4, ..Config::default() };
        let (mut values, mut now) = (Values::new(&caps), 0);
        for (peer, name, level, seconds, pause, length) in stores {
            now += pause;
            let value = Bytes::from(vec![7; length]);
            let _ = values.store(at(now), Level(level), key(name), Pointer { value, ..pointer(peer, seconds) });
            let mut bytes = 0;
            for slot in values.page(None, usize::MAX) {
                let kept = values.get(at(now), slot.1, slot.0);
                prop_assert!(kept.len() <= 2 && kept.iter().all(|one| !one.ttl.is_zero()));
                bytes += kept.iter().map(|one| one.value.len()).sum::<usize>();
            }
            prop_assert!(values.keys() <= 5 && bytes <= 1_500 && values.bytes <= 1_500, "{} keys, {bytes} bytes", values.keys());
            prop_assert!(values.per_peer.values().all(|count| *count <= 4));
        }
        values.sweep(at(now + 100));
        prop_assert_eq!((values.keys(), values.len(), values.bytes), (0, 0, 0));
    }

    /// Law 5: of one node; that of a network follows, since only so many nodes differ from the root in one digit.
    #[test]
    fn in_any_minute_at_most_beta_store_intents_for_a_key_are_let_go_on(
        pauses in prop::collection::vec(0_u64..20_000, 0..300),
        promise in any::<bool>(),
    ) {
        let (mut values, mut now, mut gone_on) = (Values::new(&Config::default()), Duration::ZERO, Vec::new());
        for (number, pause) in (0_u32..).zip(pauses) {
            now += Duration::from_millis(pause);
            let intent = Intent { from: Peer(number), promise, ..PUBLISHED };
            if !values.room(Instant::at(now), L0, KEY, intent).loaded {
                gone_on.push(now);
            }
        }
        for from in &gone_on {
            let within = gone_on.iter().filter(|at| *at >= from && **at - *from < MINUTE).count();
            prop_assert!(within <= Config::default().leak_per_minute, "{within} within a minute");
        }
    }
}

#[test]
fn who_is_not_the_one_of_its_digit_lets_one_intent_go_on_until_none_came_for_a_minute() {
    let mut values = Values::new(&Config::default());
    let other = Intent { leaks: false, ..PUBLISHED };
    let mut loaded = |second: u64| values.room(at(second), Level::GLOBAL, key(1), other).loaded;
    assert_eq!([0, 1, 30, 80, 139].map(&mut loaded), [false, true, true, true, true]);
    assert!(!loaded(199), "a minute after the last");
}
