//! RFC 9111 4.2.4, RFC 5861: what is stale, and when it is used all the same.

use super::{HOUR, MINUTE, PAST, STALE};
use crate::script::{Ask, check_sites, get};

const TAG: &str = "ETag: \"a\"";

/// What is stored with these fields, and then the origin is as it is here.
fn row(control: &'static str, then: Ask, stands_in: bool) -> (&'static str, Vec<Ask>) {
    let first = get(&[control, STALE, TAG]);
    (control, vec![first, if stands_in { then.stored(0).code(200).aged(120) } else { then }])
}

// RFC 5861 3
#[tokio::test]
async fn what_is_stale_is_used_while_it_is_asked_about_for_as_long_as_the_origin_says() {
    let next = || get(&[HOUR]).status("304 X");
    let asked = || get(&[HOUR]).status("304 X").gets(200).saw("If-None-Match: \"a\"");
    check_sites(vec![
        row("Cache-Control: max-age=60, stale-while-revalidate=3600", next(), true),
        row("Cache-Control: stale-while-revalidate=3600, max-age=60", next(), true),
        row("Cache-Control: max-age=60, Stale-While-Revalidate=\"3600\"", next(), true),
        row("Cache-Control: max-age=60\r\nCache-Control: stale-while-revalidate=3600", next(), true),
        row("Cache-Control: max-age=60, stale-while-revalidate=99999999999999999999", next(), true),
        row("Cache-Control: max-age=60, stale-while-revalidate=30", asked(), false),
        row("Cache-Control: max-age=60, stale-while-revalidate=60", asked(), false),
        row("Cache-Control: max-age=60, stale-while-revalidate=0", asked(), false),
        row("Cache-Control: max-age=60, stale-while-revalidate=foo", asked(), false),
        row("Cache-Control: max-age=60, stale-while-revalidate=-3600", asked(), false),
        row("Cache-Control: max-age=60, stale-while-revalidate", asked(), false),
        row("Cache-Control: max-age=60, stale-while-revalidate =3600", asked(), false),
        row("Cache-Control: max-age=60, foo=\"stale-while-revalidate=3600\"", asked(), false),
        row("Cache-Control: max-age=60, stale-while-revalidate=3600, must-revalidate", asked(), false),
        row("Cache-Control: max-age=60, stale-while-revalidate=3600, proxy-revalidate", asked(), false),
        row("Cache-Control: s-maxage=60, stale-while-revalidate=3600", asked(), false),
        row("Cache-Control: max-age=60, stale-while-revalidate=3600, no-cache", asked(), false),
    ])
    .await;
    let window = "Cache-Control: max-age=60, stale-while-revalidate=3600";
    check_sites(vec![
        (
            "renewed meanwhile",
            vec![get(&[window, STALE, TAG]), next().stored(0), get(&[]).stored(1).given("0123456789")],
        ),
        (
            "replaced meanwhile",
            vec![
                get(&[window, STALE, TAG]),
                get(&[HOUR]).body("abc").stored(0).given("0123456789"),
                get(&[]).stored(1).given("abc"),
            ],
        ),
        ("a HEAD", vec![get(&[window, STALE, TAG]), next().method("HEAD").stored(0)]),
        ("a range", vec![get(&[window, STALE, TAG]), next().with(&["Range: bytes=2-4"]).stored(0).given("234")]),
        ("a condition", vec![get(&[window, STALE, TAG]), next().with(&["If-None-Match: \"a\""]).stored(0).code(304)]),
        (
            "an error meanwhile changes nothing",
            vec![get(&[window, STALE, TAG]), get(&[]).status("500 X").stored(0), get(&[HOUR]).stored(0)],
        ),
        (
            "a client that wants it fresh",
            vec![get(&[window, STALE, TAG]), asked().with(&["Cache-Control: max-age=3600"])],
        ),
        ("of Expires", vec![get(&[PAST, "Cache-Control: stale-while-revalidate=3600", TAG]), next().stored(0)]),
    ])
    .await;
}

// RFC 5861 4, RFC 9111 4.3.3
#[tokio::test]
async fn what_is_stale_stands_in_for_errors_for_as_long_as_the_origin_says() {
    let mut cases = Vec::new();
    let broken = |status: &str| get(&[]).status(status);
    let hour = "Cache-Control: max-age=60, stale-if-error=3600";
    for status in ["500 X", "502 X", "503 X", "504 X"] {
        cases.push(row(hour, broken(status), true));
        cases.push(row("Cache-Control: max-age=60, stale-if-error=3600, must-revalidate", broken(status), false));
        cases.push(row("Cache-Control: max-age=60, stale-if-error=30", broken(status), false));
    }
    for status in ["400 X", "404 X", "410 X", "429 X", "501 X"] {
        cases.push(row(hour, broken(status), false));
    }
    cases.extend([
        row("Cache-Control: max-age=60, STALE-IF-ERROR=\"3600\"", broken("500 X"), true),
        row("Cache-Control: max-age=60, stale-if-error=99999999999999999999", broken("500 X"), true),
        row("Cache-Control: max-age=60, stale-if-error=60", broken("500 X"), false),
        row("Cache-Control: max-age=60, stale-if-error=0", broken("500 X"), false),
        row("Cache-Control: max-age=60, stale-if-error=foo", broken("500 X"), false),
        row("Cache-Control: max-age=60, stale-if-error", broken("500 X"), false),
        row("Cache-Control: max-age=60, stale-if-error=3600, no-cache", broken("500 X"), false),
        row("Cache-Control: s-maxage=60, stale-if-error=3600", broken("500 X"), false),
        row("Cache-Control: max-age=60, stale-if-error=3600, proxy-revalidate", broken("500 X"), false),
        row(hour, get(&[]).cut(), true),
        row("Cache-Control: max-age=60, stale-if-error=30", get(&[]).cut().gets(502), false),
    ]);
    check_sites(cases).await;
}

// RFC 9111 5.2.2.2: neither then nor later.
#[tokio::test]
async fn what_must_be_confirmed_is_not_used_however_the_origin_fails() {
    let mut cases = Vec::new();
    for control in ["must-revalidate", "proxy-revalidate", "no-cache", "s-maxage=60"] {
        let control: &'static str = format!("Cache-Control: max-age=60, {control}").leak();
        cases.push((control, vec![get(&[control, STALE]), get(&[]).cut().gets(502)]));
        let broken = || get(&[]).status("503 X");
        cases.push((control, vec![get(&[control, STALE]), broken(), get(&[HOUR])]));
    }
    let fresh = "Cache-Control: max-age=3600, must-revalidate, proxy-revalidate";
    cases.push(("fresh", vec![get(&[fresh]), get(&[]).cut().stored(0)]));
    check_sites(cases).await;
}

// RFC 9111 3: an error is stored as it says, and is no answer to what comes when it is stale.
#[tokio::test]
async fn errors_are_stored_as_they_say_and_never_stand_in() {
    let mut cases = Vec::new();
    for status in ["500 X", "502 X", "503 X", "504 X"] {
        cases.push((status, vec![get(&[]).status(status), get(&[HOUR]).code(200)]));
        cases.push((status, vec![get(&[HOUR]).status(status), get(&[]).stored(0)]));
        cases.push((status, vec![get(&[MINUTE, STALE]).status(status), get(&[]).status(status), get(&[HOUR])]));
        cases.push((status, vec![get(&[MINUTE, STALE]).status(status), get(&[]).cut().gets(502)]));
        cases.push((status, vec![get(&["Cache-Control: no-store"]).status(status), get(&[HOUR])]));
    }
    // RFC 9110 15: what is beyond all classes is as good as a 5xx.
    for status in ["500 X", "599 X", "600 X", "999 X"] {
        let code = status[..3].parse().unwrap();
        let old = get(&[MINUTE, STALE, TAG, "Cache-Control: stale-if-error=0"]);
        let renewed = get(&[HOUR]).status("304 X").gets(200).saw("If-None-Match: \"a\"").given("0123456789");
        cases.push((status, vec![old, get(&[HOUR]).status(status).code(code), renewed]));
    }
    check_sites(cases).await;
}
