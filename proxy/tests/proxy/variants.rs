//! RFC 9111 4.1 as conversations: variants, how they are told apart and how many are kept.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::{
    script::{check, check_with, get},
    support::{Origin, alone, config_site, get_with, soon, until},
};

const HOUR: &str = "Cache-Control: max-age=3600";
const MINUTE: &str = "Cache-Control: max-age=60";
const STALE: &str = "Age: 120";

#[tokio::test]
async fn variants_are_selected_by_what_their_fields_mean() {
    let foo = |value: &'static str| get(&[HOUR, "Vary: Foo"]).with(&[value]);
    let two = |fields: &[&str]| get(&[HOUR, "Vary: Foo, Bar"]).with(fields);
    let lang = |value: &'static str| get(&[HOUR, "Vary: Accept-Language"]).with(&[value]);
    check(vec![
        ("match", vec![foo("Foo: 1"), foo("Foo: 1").stored(0)]),
        ("other", vec![foo("Foo: 1"), foo("Foo: 2")]),
        ("omitted", vec![foo("Foo: 1"), get(&[HOUR, "Vary: Foo"])]),
        ("added", vec![get(&[HOUR, "Vary: Foo"]), foo("Foo: 1")]),
        ("both kept", vec![foo("Foo: 1"), foo("Foo: 2"), foo("Foo: 1").stored(0), foo("Foo: 2").stored(1)]),
        ("spaces", vec![foo("Foo: 1,2"), foo("Foo: 1 , 2").stored(0)]),
        ("lines are a list", vec![foo("Foo: 1, 2"), get(&[HOUR, "Vary: Foo"]).with(&["Foo: 1", "Foo: 2"]).stored(0)]),
        ("two", vec![two(&["Foo: 1", "Bar: a"]), two(&["Bar: a", "Foo: 1"]).stored(0)]),
        ("two, one other", vec![two(&["Foo: 1", "Bar: a"]), two(&["Foo: 1", "Bar: b"])]),
        ("two, one omitted", vec![two(&["Foo: 1", "Bar: a"]), two(&["Foo: 1"])]),
        ("languages in another case", vec![lang("Accept-Language: en, de"), lang("Accept-Language: eN, De").stored(0)]),
        (
            "languages by their weights",
            vec![lang("Accept-Language: en, de;q=0.5"), lang("Accept-Language: de; q=0.50, EN;q=1").stored(0)],
        ),
        (
            "languages of other weights",
            vec![lang("Accept-Language: en, de;q=0.5"), lang("Accept-Language: de, en;q=0.5")],
        ),
        ("languages in another order", vec![lang("Accept-Language: en, de"), lang("Accept-Language: de,en").stored(0)]),
        ("empty", vec![get(&[HOUR, "Vary: "]), get(&[HOUR]).stored(0)]),
    ])
    .await;
}

// C07
#[tokio::test]
async fn a_coding_is_sent_to_those_who_take_it_whatever_the_origin_says_it_varies_by() {
    let gzip = || get(&[HOUR, "Content-Encoding: gzip"]).with(&["Accept-Encoding: gzip"]);
    let plain = |accepts: &'static str| get(&[HOUR]).with(&[accepts]);
    check(vec![
        (
            "gzip first",
            vec![
                gzip(),
                plain("Accept-Encoding: identity"),
                gzip().stored(0),
                plain("X: no Accept-Encoding").stored(1),
                plain("Accept-Encoding: gzip;q=0").stored(1),
                plain("Accept-Encoding: gzip;q=nan").stored(1),
                get(&[HOUR, "Content-Encoding: br"]).with(&["Accept-Encoding: br"]),
            ],
        ),
        ("plain first", vec![plain("Accept-Encoding: br"), gzip().stored(0), plain("X: 1").stored(0)]),
        (
            "a 304 that says of what it varies",
            vec![
                get(&[MINUTE, STALE, "ETag: \"a\""]).with(&["Foo: 1"]),
                get(&[HOUR, "Vary: Foo"]).status("304 X").with(&["Foo: 1"]).gets(200),
                get(&[HOUR, "Vary: Foo"]).with(&["Foo: 2"]),
                get(&[HOUR]).with(&["Foo: 2"]).stored(2),
            ],
        ),
    ])
    .await;
}

// C06
#[tokio::test]
async fn variants_of_one_url_are_bounded_and_the_oldest_goes() {
    let of = |value: usize| get(&[HOUR, "Vary: Foo"]).with(&[format!("Foo: {value}").as_str()]);
    let mut asks: Vec<_> = (0..5).map(of).collect();
    asks.push(of(4).stored(4));
    asks.push(of(1).stored(1));
    asks.push(of(0));
    check_with(vec![("five where four may be", asks)], |config| config.limits.variants = 4).await;
}

// C06
#[tokio::test]
async fn of_too_many_variants_the_one_least_used_goes() {
    let of = |value: &'static str| get(&[HOUR, "Vary: Foo"]).with(&[value]);
    let asks = vec![
        of("Foo: 0"),
        of("Foo: 1"),
        of("Foo: 2"),
        of("Foo: 0").stored(0),
        of("Foo: 2").stored(2),
        of("Foo: 3"),
        of("Foo: 0").stored(0),
        of("Foo: 2").stored(2),
        of("Foo: 1"),
    ];
    check_with(vec![("one is never asked for again", asks)], |config| config.limits.variants = 3).await;
}

#[tokio::test]
async fn variants_that_come_at_once_are_all_kept() {
    let gate = Arc::new(Semaphore::new(0));
    let origin = Origin::behind(&gate, "Cache-Control: max-age=60\r\nVary: Foo\r\n", b"x").await;
    let proxy = Arc::new(alone(config_site(&origin)).await);
    gate.add_permits(1);
    let ask = |number: usize| {
        let proxy = Arc::clone(&proxy);
        async move { get_with(&proxy, "GET", "a", "/x", &format!("Foo: {number}\r\n")).await.status }
    };
    assert_eq!(ask(0).await, 200);
    let mut clients = tokio::task::JoinSet::new();
    (1..9).for_each(|number| drop(clients.spawn(ask(number))));
    until(|| origin.count() == 9).await;
    gate.add_permits(8);
    while let Some(status) = soon(clients.join_next()).await {
        assert_eq!(status.unwrap(), 200);
    }
    until(|| proxy.stats().flights == 0).await;
    for number in 0..9 {
        assert_eq!(ask(number).await, 200);
    }
    assert_eq!(origin.count(), 9);
}
