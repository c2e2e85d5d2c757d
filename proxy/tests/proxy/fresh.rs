//! RFC 9111 4.2, 5.1-5.3 and RFC 9213 as conversations: what is fresh, how old it is, and what an origin's or a client's directives
//! make of it.

use crate::script::{check, check_rows, get};

const FUTURE: &str = "Expires: Thu, 18 Aug 2050 02:01:18 GMT";
const PAST: &str = "Expires: Thu, 18 Aug 2005 02:01:18 GMT";

#[tokio::test]
async fn explicit_freshness_is_as_the_origin_says() {
    check_rows(&[
        (&[], false),
        (&["Cache-Control: max-age=3600"], true),
        (&["Cache-Control: max-age=0"], false),
        (&["Cache-Control: max-age=3600", "Age: 7200"], false),
        (&["Cache-Control: max-age=3600", "Date: Thu, 18 Aug 2005 02:01:18 GMT"], false),
        (&["Cache-Control: max-age=3600", PAST], true),
        (&["Cache-Control: max-age=3600", "Expires: 0"], true),
        (&["Cache-Control: max-age=0", FUTURE], false),
        (&["Cache-Control: max-age=1, s-maxage=3600", "Age: 2"], true),
        (&["Cache-Control: s-maxage=3600, max-age=1", "Age: 2"], true),
        (&["Cache-Control: max-age=1", "Cache-Control: s-maxage=3600", "Age: 2"], true),
        (&["Cache-Control: max-age=3600, s-maxage=1", "Age: 2"], false),
        (&["Cache-Control: s-maxage=1", FUTURE, "Age: 2"], false),
        (&["Cache-Control: max-age=2147483647"], true),
        (&["Cache-Control: max-age=2147483648"], true),
        (&["Cache-Control: max-age=99999999999999999999"], true),
        (&[FUTURE], true),
        (&[PAST], false),
        (&["Expires: 0"], false),
        (&["Expires: -1"], false),
        (&[FUTURE, PAST], false),
        (&["Expires: Thu, 18 Aug 2005 02:01:28 GMT", "Date: Thu, 18 Aug 2005 02:01:18 GMT"], false),
    ])
    .await;
}

#[tokio::test]
async fn directives_are_read_by_their_grammar() {
    check_rows(&[
        (&["Cache-Control: MaX-aGe=3600"], true),
        (&["Cache-Control: max-age=\"3600\""], true),
        (&["Cache-Control: max-age=003600"], true),
        (&["Cache-Control: foobar, max-age=3600, foo=bar"], true),
        (&["Cache-Control: max-age=1, a=\"max-age=3600\"", "Age: 2"], false),
        (&["Cache-Control: a=\"max-age=3600\", max-age=1", "Age: 2"], false),
        (&["Cache-Control: a=\"no-store\", max-age=3600"], true),
        (&["Cache-Control: max-age=-3600"], false),
        (&["Cache-Control: max-age=3600a"], false),
        (&["Cache-Control: max-age=a3600"], false),
        (&["Cache-Control: max-age=3600.5"], false),
        (&["Cache-Control: max-age='3600'"], false),
        (&["Cache-Control: max-age =3600"], false),
        (&["Cache-Control: max-age= 3600"], false),
        (&["Cache-Control: max-age"], false),
        (&["Cache-Control: max-age=3600, max-age=1", "Age: 2"], false),
        (&["Cache-Control: no-store, max-age=3600"], false),
        (&["Cache-Control: No-StOrE, max-age=3600"], false),
        (&["Cache-Control: no-cache, max-age=3600"], false),
        (&["Cache-Control: No-CaChE, max-age=3600"], false),
        (&["Cache-Control: private, max-age=3600"], false),
        (&["Cache-Control: max-age=3600, must-revalidate"], true),
        (&["Cache-Control: max-age=3600, immutable"], true),
        (&["Cache-Control: max-age=1, immutable", "Age: 2"], false),
        (&["Pragma: no-cache", "Cache-Control: max-age=3600"], true),
        (&["Cache-Control: no-store, must-understand, max-age=3600"], true),
        (&["Vary: *", "Cache-Control: max-age=3600"], false),
        (&["Vary: , *", "Cache-Control: max-age=3600"], false),
        (&["Vary: Foo, *", "Cache-Control: max-age=3600"], false),
        (&["Vary: *, Foo", "Cache-Control: max-age=3600"], false),
        (&["Vary: Foo", "Vary: *", "Cache-Control: max-age=3600"], false),
    ])
    .await;
}

#[tokio::test]
async fn ages_and_dates_are_read_by_their_grammar() {
    let hour = "Cache-Control: max-age=3600";
    check_rows(&[
        (&[hour, "Age: 1800"], true),
        (&[hour, "Age: abc"], true),
        (&[hour, "Age: 7200a"], true),
        (&[hour, "Age: a7200"], true),
        (&[hour, "Age: -7200"], true),
        (&[hour, "Age: 7200.0"], true),
        (&[hour, "Age: 7200; a=b"], true),
        (&[hour, "Age: 7200, 0"], false),
        (&[hour, "Age: 0, 7200"], true),
        (&[hour, "Age: 7200", "Age: 0"], false),
        (&[hour, "Age: 0", "Age: 7200"], true),
        (&[hour, "Age: 2147483649"], false),
        (&[hour, "Age: 99999999999999999999"], false),
        (&["Expires: Thursday, 18-Aug-50 02:01:18 GMT"], true),
        (&["Expires: Thu Aug 18 02:01:18 2050"], true),
        (&["Expires: thu, 18 aug 2050 02:01:18 gmt"], true),
        (&["Expires: Thu, 18 AUG 2050 02:01:18 GMT"], true),
        (&["Expires: Thu, 18 Aug 2050 02:01:18 AEST"], false),
        (&["Expires: Thu, 18 Aug 2050 02:01:18 UTC"], false),
        (&["Expires: Thu, 18 Aug 2050 02:01:18"], false),
        (&["Expires: Thu, 18 Aug 2050 02.01.18 GMT"], false),
        (&["Expires: Thu, 18 Aug 2050 2:01:18 GMT"], false),
        (&["Expires: Thu, 18 Aug 50 02:01:18 GMT"], false),
        (&["Expires: Thu 18 Aug 2050 02:01:18 GMT"], false),
        (&["Expires: Thu, 18-Aug-2050 02:01:18 GMT"], false),
    ])
    .await;
}

#[tokio::test]
async fn statuses_are_stored_where_they_may_be() {
    let old = "Last-Modified: Thu, 18 Aug 2005 02:01:18 GMT";
    let mut cases = Vec::new();
    for status in ["200 OK", "203 X", "204 X", "300 X", "301 X", "308 X", "404 X", "405 X", "410 X", "414 X", "501 X"] {
        cases.push((status, vec![get(&[old]).status(status), get(&[old]).status(status).stored(0)]));
    }
    for status in ["201 X", "202 X", "302 X", "307 X", "400 X", "403 X", "499 X", "502 X", "503 X", "504 X", "599 X"] {
        cases.push((status, vec![get(&[old]).status(status), get(&[old]).status(status)]));
        let public = [old, "Cache-Control: public"];
        cases.push((status, vec![get(&public).status(status), get(&public).status(status).stored(0)]));
    }
    let timed = ["Cache-Control: max-age=60"];
    for status in [
        "200 X", "203 X", "204 X", "299 X", "301 X", "302 X", "303 X", "307 X", "308 X", "400 X", "404 X", "410 X",
        "499 X", "500 X", "502 X", "503 X", "504 X", "599 X",
    ] {
        cases.push((status, vec![get(&timed).status(status), get(&timed).status(status).stored(0)]));
        let stale = ["Cache-Control: max-age=60", "Age: 61"];
        cases.push((status, vec![get(&stale).status(status), get(&stale).status(status)]));
        let strange = ["Cache-Control: max-age=60, no-store"];
        cases.push((status, vec![get(&strange).status(status), get(&strange).status(status)]));
    }
    check(cases).await;
}

// C16, RFC 9213
#[tokio::test]
async fn targeted_directives_take_the_place_of_all_others_if_they_are_well_formed() {
    let hour = "Cache-Control: max-age=3600";
    check_rows(&[
        (&["CDN-Cache-Control: max-age=3600"], true),
        (&["CDN-Cache-Control: max-age=0", hour], false),
        (&["CDN-Cache-Control: max-age=3600", "Age: 7200", hour], false),
        (&["CDN-Cache-Control: max-age=3600", "Cache-Control: no-store"], true),
        (&["CDN-Cache-Control: max-age=3600", "Cache-Control: private, max-age=0", PAST], true),
        (&["CDN-Cache-Control: max-age=1", hour, "Age: 2"], false),
        (&["CDN-Cache-Control: max-age=0", FUTURE], false),
        (&["CDN-Cache-Control: no-store", hour], false),
        (&["CDN-Cache-Control: no-cache", hour], false),
        (&["CDN-Cache-Control: private", hour], false),
        (&["CDN-Cache-Control: private, max-age=3600", hour], false),
        (&["CDN-Cache-Control: max-age=3600, no-store", hour], false),
        (&["CDN-Cache-Control: max-age=3600", "CDN-Cache-Control: no-store", hour], false),
        (&["CDN-Cache-Control: foobar", FUTURE], false),
        (&["CDN-Cache-Control: max-age=99999999999999"], true),
        (&["CDN-Cache-Control: max-age=3600;a=b, foobar, c=\"d\""], true),
        (&["CDN-Cache-Control: a=\"max-age=3600\", max-age=1", "Age: 2"], false),
        (&["CDN-Cache-Control: max-age=1, a=\"max-age=3600\"", "Age: 2"], false),
        (&["CDN-Cache-Control: max-age=-3600", hour], false),
        (&["CDN-Cache-Control: max-age=3600.0", hour], false),
        (&["CDN-Cache-Control: max-age=\"3600\"", hour], false),
        // Malformed: as if it were not there.
        (&["CDN-Cache-Control: MaX-aGe=3600"], false),
        (&["CDN-Cache-Control: MaX-aGe=0", hour], true),
        (&["CDN-Cache-Control: max-age =0", hour], true),
        (&["CDN-Cache-Control: max-age= 0", hour], true),
        (&["CDN-Cache-Control: no-store,", hour], true),
        (&["CDN-Cache-Control: ", hour], true),
        (&["CDN-Cache-Control: max-age=3600, &", "Cache-Control: no-store"], false),
        // Ours goes before everybody's.
        (&["Atoll-Cache-Control: max-age=3600", "CDN-Cache-Control: no-store"], true),
        (&["Atoll-Cache-Control: no-store", "CDN-Cache-Control: max-age=3600"], false),
        (&["Atoll-Cache-Control: &", "CDN-Cache-Control: max-age=3600", "Cache-Control: no-store"], true),
    ])
    .await;
}

// RFC 9111 5.2.1
#[tokio::test]
async fn a_client_s_directives_count_on_an_own_site() {
    let hour = ["Cache-Control: max-age=3600", "ETag: \"a\"", "Age: 1800"];
    let stale = ["Cache-Control: max-age=60", "Age: 120"];
    let first = || get(&hour);
    let renewed = || get(&[]).status("304 X");
    let ask = |field: &'static str| get(&hour).with(&[field]);
    check(vec![
        ("nonsense", vec![first(), ask("Cache-Control: nothing-to-see-here").stored(0), ask("Pragma: foo").stored(0)]),
        ("max-age=0", vec![first(), ask("Cache-Control: max-age=0")]),
        ("max-age below age", vec![first(), ask("Cache-Control: max-age=600")]),
        ("max-age over age", vec![first(), ask("Cache-Control: max-age=3000").stored(0)]),
        ("min-fresh over", vec![first(), ask("Cache-Control: min-fresh=2000")]),
        ("min-fresh below", vec![first(), ask("Cache-Control: min-fresh=1000").stored(0)]),
        ("no-cache", vec![first(), ask("Cache-Control: no-cache"), get(&hour).stored(1)]),
        (
            "no-cache validates",
            vec![
                first(),
                renewed().with(&["Cache-Control: no-cache"]).saw("If-None-Match: \"a\"").gets(200).given("0123456789"),
            ],
        ),
        ("pragma", vec![first(), ask("Pragma: no-cache")]),
        ("pragma beside", vec![first(), get(&hour).with(&["Pragma: no-cache", "Cache-Control: x"]).stored(0)]),
        ("no-store", vec![ask("Cache-Control: no-store"), first()]),
        ("no-store takes what is there", vec![first(), ask("Cache-Control: no-store").stored(0)]),
        ("max-stale", vec![get(&stale), get(&stale).with(&["Cache-Control: max-stale"]).stored(0)]),
        ("max-stale enough", vec![get(&stale), get(&stale).with(&["Cache-Control: max-stale=100"]).stored(0)]),
        ("max-stale too little", vec![get(&stale), get(&stale).with(&["Cache-Control: max-stale=50"])]),
        (
            "max-stale forbidden",
            vec![
                get(&["Cache-Control: max-age=60, must-revalidate", "Age: 120"]),
                get(&stale).with(&["Cache-Control: max-stale"]),
            ],
        ),
        ("only-if-cached", vec![ask("Cache-Control: only-if-cached").gets(504)]),
        ("only-if-cached there", vec![first(), ask("Cache-Control: only-if-cached").stored(0)]),
        ("only-if-cached stale", vec![get(&stale), get(&stale).with(&["Cache-Control: only-if-cached"]).gets(504)]),
    ])
    .await;
}

// RFC 9111 4.2.4, RFC 5861 4
#[tokio::test]
async fn stale_answers_stand_in_only_where_they_may() {
    let mut cases = Vec::new();
    for (control, stands_in) in [
        ("Cache-Control: max-age=60", true),
        ("Cache-Control: max-age=60, stale-if-error=3600", true),
        ("Cache-Control: max-age=60, stale-if-error=10", false),
        ("Cache-Control: max-age=60, must-revalidate", false),
        ("Cache-Control: max-age=60, proxy-revalidate", false),
        ("Cache-Control: s-maxage=60", false),
        ("Cache-Control: max-age=60, no-cache", false),
        ("CDN-Cache-Control: max-age=60, must-revalidate", false),
    ] {
        let first = get(&[control, "Age: 120"]);
        let cut = get(&[]).cut();
        let broken = get(&[]).status("503 Broken");
        cases.push((control, vec![first.clone(), if stands_in { cut.stored(0) } else { cut.gets(502) }]));
        cases.push((control, vec![first, if stands_in { broken.stored(0) } else { broken }]));
    }
    check(cases).await;
}
