//! Clauses of RFC 9111 and 5861 as cases.

use super::*;

fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    map
}

fn now() -> SystemTime {
    httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap()
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn lifetime(status: u16, fields: &[(&str, &str)]) -> Lifetime {
    let config = FreshnessConfig::default();
    Lifetime::of(StatusCode::from_u16(status).unwrap(), &headers(fields), now(), (&config, seconds(30)))
}

fn fresh(fields: &[(&str, &str)]) -> Duration {
    lifetime(200, fields).fresh
}

#[test]
fn the_origins_word_comes_in_order() {
    let expires = ("expires", "Sun, 06 Nov 1994 08:50:37 GMT");
    assert_eq!(fresh(&[("cache-control", "max-age=10, s-maxage=20"), expires]), seconds(20));
    assert_eq!(fresh(&[("cache-control", "max-age=10"), expires]), seconds(10));
    assert_eq!(fresh(&[expires]), seconds(60));
    assert_eq!(fresh(&[expires, ("date", "Sun, 06 Nov 1994 08:50:07 GMT")]), seconds(30));
    assert_eq!(fresh(&[("expires", "0")]), seconds(0));
    assert_eq!(fresh(&[("last-modified", "Sun, 06 Nov 1994 08:32:57 GMT")]), seconds(100));
    assert_eq!(lifetime(206, &[("last-modified", "Sun, 06 Nov 1994 08:32:57 GMT")]).fresh, seconds(100));
    assert_eq!(fresh(&[]), seconds(0));
    assert_eq!(fresh(&[("cache-control", "no-cache, max-age=10")]), seconds(0));
    assert_eq!(lifetime(404, &[]).fresh, seconds(30));
    assert_eq!(lifetime(404, &[("cache-control", "max-age=5")]).fresh, seconds(5));
}

#[test]
fn nothing_is_guessed_where_the_operator_wants_no_guess() {
    let config = FreshnessConfig { heuristic: Duration::ZERO, ..FreshnessConfig::default() };
    let old = ("last-modified", "Sun, 06 Nov 1994 08:32:57 GMT");
    for status in [200, 206, 301, 404, 410, 501] {
        for fields in [&[][..], &[old], &[old, ("cache-control", "public")]] {
            let life =
                Lifetime::of(StatusCode::from_u16(status).unwrap(), &headers(fields), now(), (&config, seconds(30)));
            assert_eq!(life.fresh, Duration::ZERO, "{status} {fields:?}");
        }
    }
}

// RFC 9111 4.2.2: a guess needs something to go by, or the operator's word.
#[test]
fn a_refusal_that_says_nothing_is_kept_for_as_long_as_the_operator_says() {
    let config = FreshnessConfig { default: seconds(10), ..FreshnessConfig::default() };
    let old = ("last-modified", "Sun, 06 Nov 1994 08:32:57 GMT");
    let fresh = |fields: &[(&str, &str)], config: &FreshnessConfig, refusal| {
        Lifetime::of(StatusCode::NOT_FOUND, &headers(fields), now(), (config, refusal)).fresh
    };
    let silent = FreshnessConfig::default();
    assert_eq!(fresh(&[], &silent, Duration::ZERO), Duration::ZERO);
    assert_eq!(fresh(&[], &silent, seconds(7)), seconds(7));
    assert_eq!(
        fresh(&[old], &silent, Duration::ZERO),
        seconds(30),
        "a tenth of 1,000 s, and no longer than any failure"
    );
    assert_eq!(fresh(&[], &config, Duration::ZERO), seconds(10));
    assert_eq!(fresh(&[], &config, seconds(20)), seconds(20));
}

#[test]
fn targeted_directives_replace_the_general_ones() {
    assert_eq!(fresh(&[("cache-control", "no-store"), ("cdn-cache-control", "max-age=9")]), seconds(9));
    assert!(
        storable(
            StatusCode::OK,
            &headers(&[("cache-control", "no-store"), ("cdn-cache-control", "max-age=9")]),
            Asker::default()
        )
        .is_ok()
    );
    assert_eq!(fresh(&[("cache-control", "max-age=7"), ("cdn-cache-control", "max-age=9, &")]), seconds(7));
    assert_eq!(fresh(&[("atoll-cache-control", "max-age=3"), ("cdn-cache-control", "max-age=9")]), seconds(3));
}

// C01
#[test]
fn what_is_one_users_is_not_stored() {
    let check = |status: u16, fields: &[(&str, &str)], authorised: bool| {
        storable(StatusCode::from_u16(status).unwrap(), &headers(fields), Asker { authorised, ..Asker::default() })
    };
    assert_eq!(check(200, &[], false), Ok(()));
    assert_eq!(check(200, &[("set-cookie", "a=b"), ("cache-control", "max-age=60")], false), Err(Reason::SetCookie));
    assert_eq!(check(200, &[("cache-control", "private")], false), Err(Reason::Private));
    assert_eq!(check(200, &[("cache-control", "private=\"x\", max-age=9")], false), Ok(()));
    assert_eq!(check(200, &[("cache-control", "No-Store")], false), Err(Reason::NoStore));
    assert_eq!(check(200, &[("cache-control", "max-age=9")], true), Err(Reason::Authorization));
    assert_eq!(check(200, &[("cache-control", "public, max-age=9")], true), Ok(()));
    assert_eq!(check(200, &[("vary", "accept"), ("vary", "x, *")], false), Err(Reason::VaryStar));
    assert_eq!(check(206, &[("cache-control", "max-age=9")], false), Err(Reason::Status));
    assert_eq!(check(503, &[("cache-control", "max-age=9")], false), Ok(()));
    assert_eq!(check(503, &[], false), Err(Reason::Status));
    assert_eq!(check(599, &[("cache-control", "public")], false), Ok(()));
    let cookie = ("set-cookie", "a=b");
    let site = |fields: &[(&str, &str)]| {
        storable(StatusCode::OK, &headers(fields), Asker { stores_cookies: true, ..Asker::default() })
    };
    assert_eq!(site(&[cookie, ("cache-control", "max-age=60")]), Ok(()));
    assert_eq!(site(&[cookie]), Err(Reason::SetCookie));
    let cookies = Asker { cookies: true, ..Asker::default() };
    assert_eq!(storable(StatusCode::OK, &headers(&[]), cookies), Err(Reason::Cookie));
    assert_eq!(storable(StatusCode::OK, &headers(&[("cache-control", "max-age=60")]), cookies), Ok(()));
    assert_eq!(check(302, &[], false), Err(Reason::Status));
    assert_eq!(check(302, &[("cache-control", "max-age=9")], false), Ok(()));
    assert_eq!(check(299, &[("cache-control", "no-store, must-understand, max-age=9")], false), Err(Reason::NoStore));
}

// C09: both windows open and close exactly.
#[test]
fn stale_windows_are_exact() {
    let life = lifetime(200, &[("cache-control", "max-age=10, stale-while-revalidate=5, stale-if-error=20")]);
    assert_eq!(life.state(seconds(9)), State::Fresh(seconds(1)));
    assert_eq!(life.state(seconds(10)), State::Refresh);
    assert_eq!(life.state(Duration::from_millis(14_999)), State::Refresh);
    assert_eq!(life.state(seconds(15)), State::Stale { if_error: true });
    assert_eq!(life.state(Duration::from_millis(29_999)), State::Stale { if_error: true });
    assert_eq!(life.state(seconds(30)), State::Stale { if_error: false });
}

#[test]
fn nothing_is_served_stale_where_the_origin_forbids_it() {
    for forbids in ["must-revalidate", "proxy-revalidate", "s-maxage=1", "no-cache"] {
        let control = format!("max-age=1, stale-while-revalidate=60, stale-if-error=60, {forbids}");
        let life = lifetime(200, &[("cache-control", &control)]);
        assert_eq!(life.state(seconds(2)), State::Stale { if_error: false }, "{forbids}");
    }
    let silent = lifetime(200, &[("cache-control", "max-age=1")]);
    assert_eq!(silent.state(seconds(23 * 3600)), State::Stale { if_error: true });
    assert_eq!(silent.state(seconds(25 * 3600)), State::Stale { if_error: false });
}

#[test]
fn age_counts_what_passed_before_us() {
    let asked = now() - seconds(2);
    let age = |fields: &[(&str, &str)]| initial_age(&headers(fields), asked, now());
    assert_eq!(age(&[]), seconds(2));
    assert_eq!(age(&[("age", "7")]), seconds(9));
    assert_eq!(age(&[("age", "7, 100")]), seconds(9));
    assert_eq!(age(&[("age", "-7")]), seconds(2));
    assert_eq!(age(&[("date", "Sun, 06 Nov 1994 08:48:37 GMT"), ("age", "7")]), seconds(60));
    assert_eq!(age(&[("date", "Mon, 07 Nov 1994 08:48:37 GMT")]), seconds(2));
    assert_eq!(age(&[("age", "99999999999999999999")]), seconds(LARGEST_AGE + 2));
    // What had passed of a Date's second is no age: else what is fresh for a second would be so for half of one.
    let late = |date: &str| {
        let received = now() + Duration::from_millis(900);
        initial_age(&headers(&[("date", date)]), received, received)
    };
    assert_eq!(late("Sun, 06 Nov 1994 08:49:37 GMT"), seconds(0));
    assert_eq!(late("Sun, 06 Nov 1994 08:49:36 GMT"), seconds(1));
}

#[test]
fn a_304_renews_the_fields_but_not_the_length_of_the_body() {
    let stored = headers(&[
        ("content-length", "5"),
        ("content-type", "a/b"),
        ("etag", "\"1\""),
        ("x", "1"),
        ("x", "2"),
        ("age", "9"),
    ]);
    let update = headers(&[("content-length", "0"), ("cache-control", "max-age=9"), ("x", "3")]);
    let fields = freshened(&stored, &update);
    assert_eq!(fields.get("content-length").unwrap(), "5");
    assert_eq!(fields.get("cache-control").unwrap(), "max-age=9");
    assert_eq!(fields.get_all("x").iter().collect::<Vec<_>>(), ["3"]);
    assert!(!fields.contains_key("age"));
    assert_eq!(fields.get("etag").unwrap(), "\"1\"");
}

#[test]
fn vary_is_a_sorted_set_and_too_long_a_list_is_a_star() {
    assert_eq!(Vary::of(&headers(&[("vary", "B, a"), ("vary", "b")])), Vary::Names(vec!["a".into(), "b".into()]));
    assert_eq!(Vary::of(&headers(&[("vary", "")])), Vary::Nothing);
    let many = (0..11).map(|number| format!("x-{number}")).collect::<Vec<_>>().join(",");
    assert_eq!(Vary::of(&headers(&[("vary", &many)])), Vary::Star);
}
