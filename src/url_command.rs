//! `atoll url`: every form under which a URL is served by the CDN.

use std::fmt::Write as _;

use atoll_proxy::{OriginUrl, UrlError, Zone};

/// The forms, one a line, each with the word for it. A form that this URL has not is told with the reason.
pub fn forms(url: &str, zone: &str) -> Result<String, UrlError> {
    let url = OriginUrl::parse(url)?;
    let zone = Zone::new(zone)?;
    let forms = zone.forms(&url);
    let mut lines = String::new();
    let mut line = |name: &str, form: Result<String, UrlError>| {
        let text = form.unwrap_or_else(|error| format!("none: {error}"));
        // Writing to a String does not fail.
        let _ = writeln!(lines, "{name:<10} {text}");
    };
    line("origin", Ok(url.to_string()));
    line("dotted", forms.dotted);
    line("one label", forms.one_label);
    line("manager", Ok(format!("http://ANY-NODE{}", forms.manager)));
    Ok(lines.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "an inline snapshot is written where it is used")]
    fn check(url: &str, told: Expect) {
        told.assert_eq(&forms(url, "nyud.example").unwrap_or_else(|error| error.to_string()));
    }

    #[test]
    fn a_url_has_a_dotted_a_one_label_and_a_manager_form() {
        check(
            "http://www.example.com/a?b",
            expect![[r#"
            origin     http://www.example.com/a?b
            dotted     http://www.example.com.nyud.example/a?b
            one label  http://www-example-com.nyud.example/a?b
            manager    http://ANY-NODE/~/http/www.example.com/a?b"#]],
        );
    }

    #[test]
    fn a_port_is_a_label_and_443_stands_for_https() {
        check(
            "http://www.example.com:8080/",
            expect![[r#"
            origin     http://www.example.com:8080/
            dotted     http://www.example.com.8080.nyud.example/
            one label  http://www-example-com-8080.nyud.example/
            manager    http://ANY-NODE/~/http/www.example.com:8080/"#]],
        );
        check(
            "https://www.example.com",
            expect![[r#"
            origin     https://www.example.com/
            dotted     http://www.example.com.443.nyud.example/
            one label  http://www-example-com-443.nyud.example/
            manager    http://ANY-NODE/~/https/www.example.com/"#]],
        );
    }

    #[test]
    fn a_form_that_cannot_be_is_told_with_the_reason() {
        check(
            "http://xn-a.example/",
            expect![[r#"
            origin     http://xn-a.example/
            dotted     http://xn-a.example.nyud.example/
            one label  none: the label xn--a-example would be taken for punycode; use xn-a.example.nyud.example
            manager    http://ANY-NODE/~/http/xn-a.example/"#]],
        );
        check(
            &format!("http://{0}.{0}.example/", "a".repeat(40)),
            expect![[r#"
            origin     http://aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.example/
            dotted     http://aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.example.nyud.example/
            one label  none: 89 bytes where DNS allows 63; use the manager form
            manager    http://ANY-NODE/~/http/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.example/"#]],
        );
        check(
            "https://www.example.com:8443/",
            expect![[r#"
            origin     https://www.example.com:8443/
            dotted     none: no name can say this scheme and port; use /~/https/www.example.com:8443/
            one label  none: no name can say this scheme and port; use /~/https/www.example.com:8443/
            manager    http://ANY-NODE/~/https/www.example.com:8443/"#]],
        );
    }

    #[test]
    fn d14_a_name_too_long_for_dns_is_told_with_the_manager_form_and_never_cut() {
        // 253 bytes of host, the most there can be: none is left for the zone.
        let host = [&"a".repeat(63)[..], &"b".repeat(63), &"c".repeat(63), &"d".repeat(61)].join(".");
        let forms = forms(&format!("https://{host}/x"), "nyud.example").unwrap();
        let lines: Vec<&str> = forms.lines().collect();
        assert_eq!(
            lines,
            [
                format!("origin     https://{host}/x"),
                "dotted     none: 270 bytes where DNS allows 253; use the manager form".to_owned(),
                "one label  none: 257 bytes where DNS allows 63; use the manager form".to_owned(),
                format!("manager    http://ANY-NODE/~/https/{host}/x"),
            ]
        );
        // One byte more is no host at all.
        assert!(super::forms(&format!("http://{host}e/"), "nyud.example").is_err());
    }

    #[test]
    fn what_is_no_url_of_an_origin_is_told() {
        check("www.example.com", expect![[r#""www.example.com" is no valid name or URL"#]]);
        check("ftp://a.test/", expect![[r#""ftp" is neither http nor https"#]]);
        check("http://127.0.0.1/", expect!["127.0.0.1 is an address or reads as one; origins are named"]);
    }
}
