//! RFC 9111 4.2, 5.1 and 5.3, RFC 9110 5.6.7: Expires, Date and Age as they are spelled, the age of what is stored, and guesses.

use std::time::Duration;

use super::{FUTURE, HOUR, MINUTE, OLD, PAST};
use crate::script::{Ask, check_rows, check_sites, check_with, get};

#[tokio::test]
async fn what_is_no_date_has_expired() {
    check_rows(&[
        (&["Expires: "], false),
        (&["Expires: foo"], false),
        (&["Expires: 2050-08-18T02:01:18Z"], false),
        (&["Expires: 4102444800"], false),
        (&["Expires: \"Thu, 18 Aug 2050 02:01:18 GMT\""], false),
        (&["Expires: Thu, 18 Aug 2050 02:01:18 GMT;"], false),
        (&["Expires: Thu, 18 Aug 2050 02:01:18 GMT, Thu, 18 Aug 2050 02:01:18 GMT"], false),
        (&["Expires: Thu, 18 Aug 2050 02:01:18 +0000"], false),
        (&["Expires: Thu, 18 Aug 2050 02:01:18 Z"], false),
        (&["Expires: Thu, 18 Aug 2050 02:01:18 EST"], false),
        (&["Expires: Thu, 18 Aug 2050 02:01:18 GMT+1"], false),
        (&["Expires: Thu, 18 Aug 2050 02:01:18 GMT (UTC)"], false),
        (&["Expires: Thu, 18 Aug 2050 02:01 GMT"], false),
        (&["Expires: Thu, 18 Aug 2050"], false),
        (&["Expires: Thu, 18 Aug 2050 24:01:18 GMT"], false),
        (&["Expires: Thu, 18 Aug 2050 02:60:18 GMT"], false),
        (&["Expires: Thu, 18 Aug 2050 02:01:61 GMT"], false),
        (&["Expires: Thu, 31 Jun 2050 02:01:18 GMT"], false),
        (&["Expires: Thu, 8 Aug 2050 02:01:18 GMT"], false),
        (&["Expires: Thu, 18 August 2050 02:01:18 GMT"], false),
        (&["Expires: Thu, 18 Aug 12050 02:01:18 GMT"], false),
        (&["Expires: Thu,  18 Aug 2050 02:01:18 GMT"], false),
        (&["Expires: Thu, Aug 18 2050 02:01:18 GMT"], false),
        (&["Expires: Thu, 18/Aug/2050 02:01:18 GMT"], false),
        (&["Expires: Sunday, 06-Nov-94 08:49:37 GMT"], false),
        (&["Expires: Sun Nov  6 08:49:37 1994"], false),
        (&["Expires: Thu, 01 Jan 1970 00:00:00 GMT"], false),
        (&["Expires: Thu, 18 Aug 1900 02:01:18 GMT"], false),
        (&[FUTURE, FUTURE], true),
        (&[PAST, FUTURE], false),
        (&[FUTURE, "Expires: 0"], false),
        (&["Expires: Thu, 18 Aug 9999 02:01:18 GMT"], true),
        (&["Expires:   Thu, 18 Aug 2050 02:01:18 GMT  "], true),
    ])
    .await;
}

// RFC 9111 4.2.1: Expires is counted from Date, and from the moment of arrival where there is none.
#[tokio::test]
async fn expires_is_counted_from_the_date() {
    check_rows(&[
        (&[FUTURE, "Date: foo"], true),
        (&[FUTURE, "Date: Thu, 18 Aug 2050 02:01:18 GMT"], false),
        (&[FUTURE, "Date: Thu, 18 Aug 2050 01:01:18 GMT"], true),
        (&[FUTURE, "Date: Thu, 18 Aug 2050 03:01:18 GMT"], false),
        (&["Expires: Thu, 18 Aug 2005 03:01:18 GMT", "Date: Thu, 18 Aug 2005 02:01:18 GMT"], false),
        (&["Expires: Thu, 18 Aug 2005 03:01:18 GMT", "Date: foo"], false),
        (&[FUTURE, "Date: Thu, 18 Aug 2005 02:01:18 GMT"], true),
        (&[FUTURE, "Date: Thu, 18 Aug 2050 01:01:18 GMT", "Date: Thu, 18 Aug 2050 01:01:18 GMT"], true),
        (&[FUTURE, "Date: Thu, 18 Aug 2050 02:01:18 GMT", "Date: foo"], true),
        (&["expires: thu, 18 aug 2050 02:01:18 gmt", "date: thu, 18 aug 2050 01:01:18 gmt"], true),
        (&[FUTURE, "Age: 2000000000"], false),
        (&[FUTURE, "Age: 3600"], true),
    ])
    .await;
}

// RFC 9111 4.2.3
#[tokio::test]
async fn age_is_the_larger_of_what_date_and_age_say() {
    check_rows(&[
        (&[HOUR, "Date: foo"], true),
        (&[HOUR, "Date: foo", "Age: 7200"], false),
        (&[HOUR, "Date: Thu, 18 Aug 2050 02:01:18 GMT"], true),
        (&[HOUR, "Date: Thu, 18 Aug 2050 02:01:18 GMT", "Age: 7200"], false),
        (&[HOUR, "Date: Thu, 18 Aug 2005 02:01:18 GMT", "Age: 0"], false),
        (&[HOUR, "Date: Sunday, 06-Nov-94 08:49:37 GMT"], false),
        (&[HOUR, "Date: Sun Nov  6 08:49:37 1994"], false),
        (&[HOUR, "Date: Thu, 18 Aug 2005 02:01:18 EST"], true),
    ])
    .await;
}

// RFC 9111 5.1: of several the first counts, and what is no number counts for nothing.
#[tokio::test]
async fn age_is_one_whole_number() {
    check_rows(&[
        (&[HOUR, "Age: 3600"], false),
        (&[HOUR, "Age: 000001800"], true),
        (&[HOUR, "Age: 000007200"], false),
        (&[HOUR, "Age: 2147483648"], false),
        (&[HOUR, "Age: 4294967296"], false),
        (&[HOUR, "Age: 18446744073709551616"], false),
        (&["Cache-Control: max-age=99999999999", "Age: 2147483648"], false),
        (&[HOUR, "Age: "], true),
        (&[HOUR, "Age: +7200"], true),
        (&[HOUR, "Age: \"7200\""], true),
        (&[HOUR, "Age: 7200 7200"], true),
        (&[HOUR, "Age: 0x1c20"], true),
        (&[HOUR, "Age: 7200.0"], true),
        (&[HOUR, "Age: 7200,"], false),
        (&[HOUR, "Age: ,7200"], true),
        (&[HOUR, "Age:\t7200\t"], false),
        (&[HOUR, "Age: -7200"], true),
        (&[HOUR, "Age: 7200s"], true),
        (&[HOUR, "Age: 7200,7200"], false),
        (&[HOUR, "Age: foo, 7200"], true),
        (&[HOUR, "Age: 7200, foo"], false),
        (&[HOUR, "Age: foo", "Age: 7200"], true),
        (&[HOUR, "Age: 7200", "Age: foo"], false),
    ])
    .await;
}

#[tokio::test]
async fn what_is_stored_tells_its_age() {
    let again = || get(&[HOUR]).stored(0);
    check_sites(vec![
        ("none said", vec![get(&[HOUR]).lacks("age"), again().aged(0)]),
        ("said", vec![get(&[HOUR, "Age: 1800"]).has("age", "1800"), again().aged(1_800)]),
        ("twice", vec![get(&[HOUR, "Age: 1800", "Age: 5"]), again().aged(1_800)]),
        ("nonsense", vec![get(&[HOUR, "Age: foo"]), again().aged(0)]),
        ("negative", vec![get(&[HOUR, "Age: -5"]), again().aged(0)]),
        (
            "more than there is",
            vec![
                get(&["Cache-Control: max-age=60", "Age: 99999999999999999999"]),
                again().with(&["Cache-Control: max-stale"]).aged(2_147_483_648),
            ],
        ),
        ("a date to come", vec![get(&[HOUR, "Date: Thu, 18 Aug 2050 02:01:18 GMT"]), again().aged(0)]),
        ("a HEAD", vec![get(&[HOUR, "Age: 1800"]), again().method("HEAD").aged(1_800)]),
        (
            "a 304",
            vec![
                get(&[HOUR, "Age: 1800", "ETag: \"a\""]),
                get(&[]).with(&["If-None-Match: \"a\""]).stored(0).code(304).aged(1_800),
            ],
        ),
        (
            "a part",
            vec![get(&[HOUR, "Age: 1800"]), get(&[]).with(&["Range: bytes=2-4"]).stored(0).code(206).aged(1_800)],
        ),
        (
            "counted anew from a 304",
            vec![
                get(&[MINUTE, "Age: 1800", "ETag: \"a\""]),
                get(&[HOUR, "Age: 600"]).status("304 X").gets(200),
                get(&[]).stored(1).aged(600),
            ],
        ),
        (
            "no Age in a 304",
            vec![
                get(&[MINUTE, "Age: 1800", "ETag: \"a\""]),
                get(&[HOUR]).status("304 X").gets(200),
                get(&[]).stored(1).aged(0),
            ],
        ),
    ])
    .await;
}

// RFC 9110 6.6.1
#[tokio::test]
async fn what_came_without_a_date_gets_one_and_keeps_it() {
    let date = "Date: Thu, 18 Aug 2050 02:01:18 GMT";
    check_sites(vec![
        (
            "its own",
            vec![
                get(&[HOUR, date]).has("date", "Thu, 18 Aug 2050 02:01:18 GMT"),
                get(&[]).stored(0).has("date", "Thu, 18 Aug 2050 02:01:18 GMT"),
            ],
        ),
        (
            "of a 304",
            vec![
                get(&[MINUTE, "Age: 120", "ETag: \"a\""]),
                get(&[HOUR, date]).status("304 X").gets(200).has("date", "Thu, 18 Aug 2050 02:01:18 GMT"),
                get(&[]).stored(1).has("date", "Thu, 18 Aug 2050 02:01:18 GMT"),
            ],
        ),
    ])
    .await;
}

// RFC 9111 4.2.2: where the origin says nothing, a tenth of the time since the last change.
#[tokio::test]
async fn guesses_are_made_only_where_nothing_is_said() {
    check_rows(&[
        (&[OLD], true),
        (&[OLD, "Cache-Control: foo"], true),
        (&[OLD, "Cache-Control: must-revalidate"], true),
        (&[OLD, "Cache-Control: public"], true),
        (&[OLD, "Date: foo"], true),
        (&["Last-Modified: Wednesday, 18-Aug-10 02:01:18 GMT"], true),
        (&["Last-Modified: Wed Aug 18 02:01:18 2010"], true),
        (&[OLD, "Age: 172800"], false),
        (&[OLD, "Cache-Control: no-cache"], false),
        (&[OLD, "Cache-Control: no-store"], false),
        (&[OLD, "Cache-Control: private"], false),
        (&[OLD, "Cache-Control: max-age=0"], false),
        (&[OLD, "Cache-Control: s-maxage=0"], false),
        (&[OLD, "Cache-Control: max-age=foo"], false),
        (&[OLD, "Expires: 0"], false),
        (&[OLD, PAST], false),
        (&["Last-Modified: Thu, 18 Aug 2050 02:01:18 GMT"], false),
        (&["Last-Modified: Thu, 18 Aug 2050 02:01:18 GMT", "Date: Thu, 18 Aug 2050 02:01:18 GMT"], false),
        (&["Last-Modified: foo"], false),
        (&["Last-Modified: Wed, 18 Aug 2010 02:01:18 EST"], false),
        (&["ETag: \"a\""], false),
        (&["Cache-Control: public"], false),
        (&["Vary: Foo"], false),
        (&[OLD, "Pragma: no-cache"], true),
        (&[OLD, "Cache-Control: max-age=0, public"], false),
        (&[OLD, "Cache-Control: s-maxage=3600"], true),
        (&[OLD, "Set-Cookie: a=b"], false),
        (&[OLD, "Expires: "], false),
    ])
    .await;
    let asked = |path: &'static str| get(&[OLD]).path(path);
    check_sites(vec![
        ("with a query", vec![asked("/x?a=1"), asked("/x?a=1").stored(0), asked("/x?a=2")]),
        ("with a slash at the end", vec![asked("/x/"), asked("/x/").stored(0), asked("/x")]),
    ])
    .await;
}

// RFC 9111 4.2.2: of a refusal too; where nothing says how long it holds, only if the operator does.
#[tokio::test]
async fn a_refusal_that_says_nothing_is_kept_only_where_the_operator_wants_it() {
    let statuses = ["404 X", "405 X", "410 X", "414 X", "501 X"];
    let silent = |again: fn(Ask) -> Ask| {
        let rows = statuses.iter().flat_map(|status| {
            [&[][..], &["ETag: \"a\""], &["Cache-Control: public"], &["Cache-Control: foo"]].map(|fields| {
                let ask = || get(fields).status(status);
                (*status, vec![ask(), again(ask()), get(&[HOUR]).method("DELETE"), get(&[HOUR])])
            })
        });
        rows.collect::<Vec<_>>()
    };
    check_sites(silent(|ask| ask)).await;
    check_with(silent(|ask| ask.stored(0)), |config| {
        config.sites.get_mut("*").unwrap().negative = Duration::from_secs(30);
    })
    .await;
    let dated = statuses.map(|status| (status, vec![get(&[OLD]).status(status), get(&[]).stored(0)]));
    check_sites(dated.to_vec()).await;
}

// An operator may want nothing used again of which the origin does not say how long.
#[tokio::test]
async fn no_guess_is_made_where_the_operator_wants_none() {
    let mut cases = Vec::new();
    for status in ["200 X", "203 X", "204 X", "300 X", "301 X", "308 X", "404 X", "405 X", "410 X", "414 X", "501 X"] {
        for fields in [&[][..], &[OLD], &[OLD, "Cache-Control: public"]] {
            let ask = || get(fields).status(status);
            cases.push((status, vec![ask(), ask()]));
        }
        cases.push((status, vec![get(&[HOUR]).status(status), get(&[]).stored(0)]));
        cases.push((status, vec![get(&[FUTURE]).status(status), get(&[]).stored(0)]));
    }
    check_with(cases, |config| config.freshness.heuristic = Duration::ZERO).await;
}
