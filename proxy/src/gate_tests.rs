//! Heads by their bytes. The same rows run over real sockets in the crate's integration tests.

use super::*;

const LIMITS: HeadLimits = HeadLimits { head: 4_096, target: 1_024, fields: 16, field: 2_048 };

fn own(authority: &Authority) -> bool {
    authority.host() == "own.test"
}

fn judge(head: &[u8]) -> Result<Option<usize>, Refusal> {
    let passed = Gate::default().judge(head, LIMITS, &own)?;
    Ok(passed.map(|passed| passed.head))
}

fn site(method: &str, fields: &str) -> Result<Following, Refusal> {
    let head = format!("{method} / HTTP/1.1\r\nHost: own.test\r\n{fields}\r\n");
    Gate::default().judge(head.as_bytes(), LIMITS, &own).map(|passed| passed.unwrap().body)
}

fn with(fields: &str) -> Result<Option<usize>, Refusal> {
    judge(format!("GET / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n").as_bytes())
}

#[test]
fn good_heads_pass_whole_and_leave_what_follows() {
    let one = b"GET /a?b HTTP/1.1\r\nHost: a.test\r\nAccept:\r\nX: a\tb\r\n\r\n";
    let mut two = one.to_vec();
    two.extend_from_slice(b"GET /next");
    assert_eq!(judge(one), Ok(Some(one.len())));
    assert_eq!(judge(&two), Ok(Some(one.len())));
    assert!(with("Content-Length: 0\r\n").is_ok());
    assert!(judge(b"HEAD http://a.test/ HTTP/1.1\r\nHost: A.test:80\r\n\r\n").is_ok());
    assert!(judge(b"GET http://a.test HTTP/1.0\r\n\r\n").is_ok());
}

#[test]
fn a_head_is_judged_alike_however_it_is_cut() {
    let head = b"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nX-Y: z\r\n\r\n";
    let mut gate = Gate::default();
    for end in 0..head.len() {
        assert_eq!(gate.judge(&head[..end], LIMITS, &own), Ok(None), "{end}");
    }
    assert_eq!(gate.judge(head, LIMITS, &own), Ok(Some(Passed { head: head.len(), body: Following::Head })));
}

#[test]
fn a_bad_line_is_refused_before_the_head_ends() {
    assert_eq!(judge(b"GET / HTTP/1.1\n"), Err(Refusal::LineEnd));
    assert_eq!(judge(b"GET /\r\n"), Err(Refusal::RequestLine));
    assert_eq!(judge(b"PRI * HTTP/2.0\r\n"), Err(Refusal::Version));
    assert_eq!(judge(b"GET / HTTP/1.1\r\n Host: a"), Ok(None));
    assert_eq!(judge(b"GET / HTTP/1.1\r\n Host: a\r\n"), Err(Refusal::FieldName));
    assert_eq!(judge(b"GET / HT\rTP"), Err(Refusal::LineEnd));
}

#[test]
fn own_sites_take_every_method_and_one_framing() {
    assert_eq!(site("POST", "Content-Length: 5\r\n"), Ok(Following::Length(5)));
    assert_eq!(site("PUT", "Transfer-Encoding: chunked\r\n"), Ok(Following::Chunks));
    assert_eq!(site("M-SEARCH", ""), Ok(Following::Head));
    assert_eq!(site("DELETE", "Expect: 100-continue\r\n"), Ok(Following::Head));
    assert_eq!(site("GET", "Content-Length: 5\r\n"), Err(Refusal::Body));
    assert_eq!(site("HEAD", "Transfer-Encoding: chunked\r\n"), Err(Refusal::Framing));
    assert_eq!(site("POST", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"), Err(Refusal::Framing));
    assert_eq!(site("POST", "Transfer-Encoding: gzip\r\n"), Err(Refusal::Coding));
    assert_eq!(site("POST", "Content-Length: 5\r\nContent-Length: 5\r\n"), Err(Refusal::Framing));
    assert_eq!(site("TRACE", ""), Err(Refusal::Method));
    // Answered by this proxy itself, and never passed on.
    assert_eq!(site("PURGE", ""), Ok(Following::Head));
    assert_eq!(site("PURGE", "Content-Length: 5\r\n"), Err(Refusal::Body));
    assert_eq!(site("POST", "Expect: the-unexpected\r\n"), Err(Refusal::Expectation));
}

#[test]
fn only_entity_tags_may_have_opaque_bytes() {
    let with = |name: &str| {
        let mut head = format!("GET / HTTP/1.1\r\nHost: a.test\r\n{name}: \"a").into_bytes();
        head.extend_from_slice(b"\xfc\"\r\n\r\n");
        judge(&head).map(|end| end.is_some())
    };
    assert_eq!(with("If-None-Match"), Ok(true));
    assert_eq!(with("X"), Err(Refusal::FieldValue));
}

#[test]
fn sizes_are_bounded_while_the_head_is_still_open() {
    let mut target = b"GET /".to_vec();
    target.resize(2_000, b'a');
    assert_eq!(judge(&target), Err(Refusal::TargetTooLong));
    let mut field = b"GET / HTTP/1.1\r\nX: ".to_vec();
    field.resize(4_096, b'a');
    assert_eq!(judge(&field), Err(Refusal::TooLarge));
    assert_eq!(with(&"X: y\r\n".repeat(16)), Err(Refusal::TooLarge));
}

#[test]
fn no_bytes_make_the_gate_panic_and_what_passes_is_one_clean_head() {
    bolero::check!().with_iterations(20_000).for_each(|bytes: &[u8]| {
        let mut head = b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec();
        head.extend_from_slice(bytes);
        for input in [bytes, &head] {
            if let Ok(Some(end)) = judge(input) {
                let passed = &input[..end];
                assert!(passed.ends_with(b"\r\n\r\n"));
                assert_eq!(
                    passed.iter().filter(|byte| **byte == b'\n').count(),
                    passed.windows(2).filter(|two| *two == b"\r\n").count()
                );
                assert!(!passed.to_ascii_lowercase().windows(17).any(|name| name == b"transfer-encoding"));
            }
        }
    });
}
