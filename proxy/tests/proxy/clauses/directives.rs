//! RFC 9111 4.2.1 and 5.2.2: Cache-Control of responses, as it is spelled, and which directive wins.

use super::{FUTURE, HOUR, MINUTE, OLD, PAST, STALE};
use crate::script::{check_rows, check_sites, get};

// RFC 9110 5.6.1, 5.6.4: lists with empty members, quoted strings with escapes, several lines.
#[tokio::test]
async fn a_list_of_directives_may_be_parted_in_any_way() {
    check_rows(&[
        (&["Cache-Control: ,max-age=3600,,"], true),
        (&["Cache-Control: , , max-age=3600"], true),
        (&["Cache-Control: foo,\tmax-age=3600\t"], true),
        (&["Cache-Control: foo", HOUR], true),
        (&["Cache-Control: ", HOUR], true),
        (&[HOUR, "Cache-Control: no-store"], false),
        (&["Cache-Control: no-store", HOUR], false),
        (&[HOUR, "Cache-Control: private"], false),
        (&[HOUR, "Cache-Control: no-cache"], false),
        (&["CACHE-CONTROL: MAX-AGE=3600"], true),
        (&["cache-control:max-age=3600"], true),
        (&["Cache-Control: foo=\"bar\\\", no-store, \\\"\", max-age=3600"], true),
        (&["Cache-Control: foo=\"\\\\\", no-store, max-age=3600"], false),
        (&["Cache-Control: foo=\"no-store\", bar=\"private, no-cache\", max-age=3600"], true),
        (&["Cache-Control: no-storex, xno-store, no_store, max-age=3600"], true),
        (&["Cache-Control: foo=\"bar, max-age=3600"], false),
        (&["Cache-Control: foo bar, max-age=3600"], true),
    ])
    .await;
}

#[tokio::test]
async fn a_span_that_is_no_whole_number_is_none() {
    check_rows(&[
        (&["Cache-Control: max-age=\t3600"], false),
        (&["Cache-Control: max-age\t=3600"], false),
        (&["Cache-Control: max-age=\"3600"], false),
        (&["Cache-Control: max-age=3600\""], false),
        (&["Cache-Control: max-age=\"\""], false),
        (&["Cache-Control: max-age=\" 3600\""], false),
        (&["Cache-Control: max-age="], false),
        (&["Cache-Control: max-age=+3600"], false),
        (&["Cache-Control: max-age=3600s"], false),
        (&["Cache-Control: max-age=0x3600"], false),
        (&["Cache-Control: max-age=36e2"], false),
        (&["Cache-Control: max-age=3_600"], false),
        (&["Cache-Control: max-age=3600;foo"], false),
        (&["Cache-Control: max-age=3600 no-transform"], false),
        (&["Cache-Control: max-age=3600=1"], false),
        (&["Cache-Control: max-age:3600"], false),
        (&["Cache-Control: maxage=3600"], false),
        (&["Cache-Control: max_age=3600"], false),
        (&["Cache-Control: xmax-age=3600"], false),
        (&["Cache-Control: max-agex=3600"], false),
        (&["Cache-Control: s-max-age=3600"], false),
        (&["Cache-Control: max-age=3,600", "Age: 10"], false),
        // An invalid one is none, and what else says how long counts for no more than it.
        (&["Cache-Control: max-age=foo", FUTURE], false),
        (&["Cache-Control: max-age=-1", OLD], false),
        (&["Cache-Control: s-maxage=foo, max-age=3600"], false),
        (&["Cache-Control: s-maxage=-1, max-age=3600"], false),
    ])
    .await;
}

// RFC 9111 1.2.2
#[tokio::test]
async fn spans_of_any_size_count_and_the_largest_are_clamped() {
    check_rows(&[
        (&["Cache-Control: max-age=4294967295"], true),
        (&["Cache-Control: max-age=4294967296"], true),
        (&["Cache-Control: max-age=9223372036854775808"], true),
        (&["Cache-Control: max-age=18446744073709551616"], true),
        (&["Cache-Control: s-maxage=99999999999999999999"], true),
        (&["Cache-Control: max-age=99999999999999999999", "Age: 99999999999999999999"], false),
        (&["Cache-Control: max-age=0000000000000000000003600"], true),
        (&["Cache-Control: max-age=0000000000000000000000000"], false),
    ])
    .await;
}

// RFC 9111 4.2.1: of several the first counts, or none; of contradicting ones the most restrictive.
#[tokio::test]
async fn of_directives_that_contradict_each_other_the_most_restrictive_counts() {
    check_rows(&[
        (&["Cache-Control: max-age=3600, max-age=3600"], true),
        (&[HOUR, HOUR], true),
        (&["Cache-Control: max-age=60, max-age=3600", STALE], false),
        (&[MINUTE, HOUR, STALE], false),
        (&["Cache-Control: s-maxage=60, s-maxage=3600", STALE], false),
        (&["Cache-Control: s-maxage=\"3600\", max-age=0"], true),
        (&["Cache-Control: S-MaxAge=3600, max-age=0"], true),
        (&["Cache-Control: s-maxage=3600", PAST], true),
        (&["Cache-Control: s-maxage=0, max-age=3600"], false),
        (&["Cache-Control: s-maxage=0", FUTURE], false),
        (&["Cache-Control: public, private, max-age=3600"], false),
        (&["Cache-Control: public, no-store, max-age=3600"], false),
        (&["Cache-Control: public, no-cache, max-age=3600"], false),
        (&["Cache-Control: no-cache=\"a\", no-cache, max-age=3600"], false),
        (&["Cache-Control: private=\"a\", private, max-age=3600"], false),
        (&["Cache-Control: max-age=3600, s-maxage=3600, no-cache"], false),
        (&["Cache-Control: no-cache", FUTURE], false),
        (&["Cache-Control: private", FUTURE], false),
        (&["Cache-Control: no-store", FUTURE], false),
        (&["Cache-Control: public", FUTURE], true),
        (&["Cache-Control: foo", FUTURE], true),
        (&["Pragma: no-cache", FUTURE], true),
    ])
    .await;
}

// RFC 9111 5.2: an argument where none is defined changes nothing.
#[tokio::test]
async fn directives_hold_with_arguments_that_they_do_not_have() {
    check_rows(&[
        (&["Cache-Control: no-store=\"foo\", max-age=3600"], false),
        (&["Cache-Control: no-store=1, max-age=3600"], false),
        (&["Cache-Control: no-store=, max-age=3600"], false),
        (&["Cache-Control: no-cache=\"\", max-age=3600"], false),
        (&["Cache-Control: private=\"\", max-age=3600"], false),
        (&["Cache-Control: private=, max-age=3600"], false),
        (&["Cache-Control: no-cache=\"a b\", max-age=3600"], false),
        (&["Cache-Control: must-revalidate=foo, max-age=3600"], true),
        (&["Cache-Control: no-transform, no-transform=1, max-age=3600"], true),
    ])
    .await;
    let authorised = || get(&["Cache-Control: public=1, max-age=3600"]).with(&["Authorization: x"]);
    let stale = |control: &'static str| get(&[control, STALE]);
    check_sites(vec![
        ("public=1", vec![authorised(), authorised().stored(0)]),
        ("must-revalidate=0", vec![stale("Cache-Control: max-age=60, must-revalidate=0"), get(&[]).cut().gets(502)]),
        (
            "proxy-revalidate=\"a\"",
            vec![stale("Cache-Control: max-age=60, Proxy-Revalidate=\"a\""), get(&[]).cut().gets(502)],
        ),
    ])
    .await;
}

// RFC 9111 5.2.2.4, 5.2.2.7
#[tokio::test]
async fn qualified_forms_withhold_their_fields_alone() {
    let mut cases = Vec::new();
    for control in [
        "Cache-Control: no-cache=\"a\", max-age=3600",
        "Cache-Control: no-cache=\"A\", max-age=3600",
        "Cache-Control: no-cache=a, max-age=3600",
        "Cache-Control: NO-CACHE=\" , a ,\", max-age=3600",
        "Cache-Control: private=\"a\", max-age=3600",
        "Cache-Control: private=a, max-age=3600",
        "Cache-Control: private=\"a\", no-cache=\"a\", max-age=3600",
        "Cache-Control: private=\"set-cookie, a\", max-age=3600",
        "CDN-Cache-Control: no-cache=\"a\", max-age=3600",
    ] {
        let first = get(&[control, "A: 1", "A: 2", "AB: 3"]).has("a", "1, 2");
        cases.push((control, vec![first, get(&[HOUR]).stored(0).lacks("a").has("ab", "3")]));
    }
    // Once it is confirmed, what is there of the field may be sent.
    let qualified = ["Cache-Control: max-age=60, no-cache=\"a\"", STALE, "A: 1", "ETag: \"a\""];
    cases.push(("confirmed", vec![get(&qualified), get(&[HOUR]).status("304 X").gets(200).has("a", "1")]));
    check_sites(cases).await;
}

// RFC 9111 5.2.2.3
#[tokio::test]
async fn must_understand_lifts_no_store_from_what_is_understood_alone() {
    let mut cases = Vec::new();
    for (status, control, stored) in [
        ("200 X", "Cache-Control: must-understand, no-store, max-age=3600", true),
        ("404 X", "Cache-Control: must-understand, no-store, max-age=3600", true),
        ("301 X", "Cache-Control: must-understand, max-age=3600", true),
        ("299 X", "Cache-Control: must-understand, max-age=3600", false),
        ("499 X", "Cache-Control: Must-Understand, max-age=3600", false),
        ("599 X", "Cache-Control: must-understand, no-store, max-age=3600", false),
        ("200 X", "Cache-Control: must-understand, private, max-age=3600", false),
    ] {
        let ask = || get(&[control]).status(status);
        cases.push((control, vec![ask(), if stored { ask().stored(0) } else { ask() }]));
    }
    check_sites(cases).await;
}
