//! RFC 9111 4.4 as conversations: what unsafe methods make of what is stored, and of what is being fetched.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::{
    script::{check, get},
    support::{Do, Origin, alone, config_site, get_with, ok, soon, until},
};

const HOUR: &str = "Cache-Control: max-age=3600";

// RFC 9111 4.4
#[tokio::test]
async fn unsafe_methods_make_stored_answers_invalid_unless_they_fail() {
    let mut cases = Vec::new();
    for method in ["POST", "PUT", "DELETE", "PATCH", "M-SEARCH"] {
        let change = || get(&[]).method(method).with(&["Content-Length: 0"]).saw(method);
        cases.push((method, vec![get(&[HOUR]), change(), get(&[HOUR]), get(&[HOUR]).stored(2)]));
        cases.push((method, vec![get(&[HOUR]), change().status("500 X"), get(&[HOUR]).stored(0)]));
    }
    for method in ["OPTIONS", "PROPFIND"] {
        cases.push((method, vec![get(&[HOUR]), get(&[HOUR]).method(method), get(&[HOUR]).stored(0)]));
    }
    for field in ["Location: /y", "Content-Location: y", "Content-Location: ./y"] {
        let change = get(&[field]).method("POST").with(&["Content-Length: 0"]);
        cases.push((field, vec![get(&[HOUR]).path("/y"), change, get(&[HOUR]).path("/y")]));
    }
    for (field, path) in
        [("Location: ?a=1", "/b/../x?a=1"), ("Content-Location: /b/../y", "/b/../y"), ("Location: /b/../y", "/y")]
    {
        let change = get(&[field]).path("/b/../x").method("POST").with(&["Content-Length: 0"]);
        cases.push((field, vec![get(&[HOUR]).path(path), change, get(&[HOUR]).path(path)]));
    }
    let elsewhere = get(&["Location: http://other.test/y"]).method("POST").with(&["Content-Length: 0"]);
    cases.push(("elsewhere", vec![get(&[HOUR]).path("/y"), elsewhere, get(&[HOUR]).path("/y").stored(0)]));
    let foo = |value: &'static str| get(&[HOUR, "Vary: Foo"]).with(&[value]);
    cases.push((
        "all variants",
        vec![
            foo("Foo: 1"),
            foo("Foo: 2"),
            get(&[]).method("DELETE"),
            foo("Foo: 1"),
            foo("Foo: 2"),
            foo("Foo: 1").stored(3),
        ],
    ));
    check(cases).await;
}

// RFC 9111 4.4: a site with a name to itself is the same at every port of ours, and answers name the one that the client knows.
#[tokio::test]
async fn what_an_answer_names_is_found_at_the_port_that_its_client_named() {
    let origin = Origin::start(|number, head| {
        let named =
            head.to_ascii_lowercase().split("named: ").nth(1).unwrap_or("\r").split('\r').next().unwrap().to_owned();
        ok(&format!("Cache-Control: max-age=60\r\nLocation: {named}\r\n"), &Bytes::from(number.to_string()))
    })
    .await;
    let mut config = config_site(&origin);
    let site = config.sites.remove("*").unwrap();
    config.sites.insert("own.test".to_owned(), site);
    let proxy = alone(config).await;
    for (named, found) in [
        ("http://own.test:8080/y", true),
        ("//OWN.test:8080/y", true),
        ("http://own.test/y", true),
        ("http://own.test:8080", false),
        ("http://own.test:8081/y", false),
        ("http://own.test:80801/y", false),
        ("https://own.test:8080/y", false),
        ("http://other.test:8080/y", false),
    ] {
        let before = get_with(&proxy, "GET", "own.test:8080", "/y", "").await.body;
        until(|| proxy.stats().flights == 0).await;
        let change = format!("Content-Length: 0\r\nNamed: {named}\r\n");
        assert_eq!(get_with(&proxy, "PUT", "own.test:8080", "/x", &change).await.status, 200);
        let after = get_with(&proxy, "GET", "own.test:8080", "/y", "").await.body;
        until(|| proxy.stats().flights == 0).await;
        assert_eq!(before != after, found, "{named}");
    }
}

// RFC 9111 4.4: also variants that nobody lists any more.
#[tokio::test]
async fn no_variant_outlives_an_unsafe_method_whatever_is_remembered_of_it() {
    let foo = |value: &'static str| get(&[HOUR, "Vary: Foo"]).with(&[value]);
    check(vec![
        (
            "its list was another's meanwhile",
            vec![
                foo("Foo: 1"),
                get(&[HOUR, "Vary: Bar"]).with(&["Foo: 2", "Bar: 1"]),
                get(&[]).method("DELETE"),
                foo("Foo: 3"),
                foo("Foo: 1"),
            ],
        ),
        (
            "its answer did not say what it varies by",
            vec![
                foo("Foo: 1"),
                get(&[HOUR]).with(&["Foo: 2"]),
                get(&[HOUR]).with(&["Foo: 2"]).stored(1),
                get(&[]).method("POST").with(&["Content-Length: 0"]),
                foo("Foo: 3"),
                foo("Foo: 2"),
                foo("Foo: 1"),
                foo("Foo: 2").stored(5),
            ],
        ),
    ])
    .await;
}

// RFC 9111 4.4: what is asked for before the method is answered after it.
#[tokio::test]
async fn a_variant_that_is_being_fetched_is_overtaken_by_an_unsafe_method() {
    for personal in ["", "Authorization: x\r\n"] {
        let gate = Arc::new(Semaphore::new(0));
        let held = Arc::clone(&gate);
        let origin = Origin::start(move |number, _| {
            let fields = "Cache-Control: max-age=60, public\r\nVary: Foo\r\n";
            let mut steps = ok(fields, &Bytes::from(number.to_string()));
            if number == 1 {
                steps.insert(0, Do::Wait(Arc::clone(&held)));
            }
            steps
        })
        .await;
        let proxy = Arc::new(alone(config_site(&origin)).await);
        assert_eq!(get_with(&proxy, "GET", "a", "/x", "Foo: 1\r\n").await.body, b"0");
        until(|| proxy.stats().flights == 0).await;
        let slow = tokio::spawn({
            let (proxy, fields) = (Arc::clone(&proxy), format!("Foo: 2\r\n{personal}"));
            async move { get_with(&proxy, "GET", "a", "/x", &fields).await.body }
        });
        until(|| origin.count() == 2).await;
        assert_eq!(get_with(&proxy, "DELETE", "a", "/x", "").await.body, b"2");
        gate.add_permits(1);
        assert_eq!(soon(slow).await.unwrap(), b"1", "who asked before gets what was so before");
        assert_eq!(get_with(&proxy, "GET", "a", "/x", "Foo: 2\r\n").await.body, b"3");
    }
}
