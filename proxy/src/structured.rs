//! Dictionaries of structured fields (RFC 9651 4.2), read strictly: one wrong byte and the whole field counts for nothing, as
//! RFC 9213 2.1 wants. Only what cache directives need of a value is kept; parameters are checked and dropped.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)
)]

/// One member's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    /// `?0`, `?1`, or a key alone.
    Boolean(bool),
    /// Up to 15 digits and a sign.
    Integer(i64),
    /// In quotes.
    Text(String),
    /// Between colons, in base64 as it came.
    Bytes(String),
    /// Valid, and of a type that no field of ours has: a token, decimal, date, display string or list.
    Other,
}

/// The members in their order; of a repeated key the last value counts. `None`: not a dictionary, or an empty one.
pub(crate) fn dictionary(text: &[u8]) -> Option<Vec<(String, Item)>> {
    let mut reader = Reader { rest: text };
    reader.skip(b" ");
    let mut members: Vec<(String, Item)> = Vec::new();
    loop {
        let key = reader.key()?;
        let item = if reader.eat(b'=') { reader.member()? } else { Item::Boolean(true) };
        reader.parameters()?;
        members.retain(|(known, _)| *known != key);
        members.push((key, item));
        if members.len() > MEMBERS {
            return None;
        }
        reader.skip(b" \t");
        if reader.rest.is_empty() {
            return Some(members);
        }
        if !reader.eat(b',') {
            return None;
        }
        reader.skip(b" \t");
    }
}

/// The members of a list of strings, parameters dropped. `None`: not a list, or one of something else.
pub(crate) fn strings(text: &[u8]) -> Option<Vec<String>> {
    let mut reader = Reader { rest: text };
    reader.skip(b" ");
    let mut members = Vec::new();
    loop {
        let Item::Text(member) = reader.member()? else { return None };
        reader.parameters()?;
        members.push(member);
        reader.skip(b" \t");
        if reader.rest.is_empty() {
            return Some(members);
        }
        if !reader.eat(b',') {
            return None;
        }
        reader.skip(b" \t");
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.rest.first() == Some(&byte);
        if found {
            self.next();
        }
        found
    }

    fn skip(&mut self, bytes: &[u8]) {
        while self.rest.first().is_some_and(|first| bytes.contains(first)) {
            self.next();
        }
    }

    fn take(&mut self, good: impl Fn(u8) -> bool) -> String {
        let mut text = String::new();
        while let Some(first) = self.rest.first().copied().filter(|first| good(*first)) {
            text.push(char::from(first));
            self.next();
        }
        text
    }

    fn key(&mut self) -> Option<String> {
        let first = *self.rest.first()?;
        if !first.is_ascii_lowercase() && first != b'*' {
            return None;
        }
        Some(self.take(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.*".contains(&byte)))
    }

    fn parameters(&mut self) -> Option<()> {
        while self.eat(b';') {
            self.skip(b" ");
            self.key()?;
            if self.eat(b'=') {
                self.item()?;
            }
        }
        Some(())
    }

    /// An item or an inner list.
    fn member(&mut self) -> Option<Item> {
        if !self.eat(b'(') {
            return self.item();
        }
        loop {
            self.skip(b" ");
            if self.eat(b')') {
                return Some(Item::Other);
            }
            self.item()?;
            self.parameters()?;
            if !matches!(self.rest.first(), Some(b' ' | b')')) {
                return None;
            }
        }
    }

    fn item(&mut self) -> Option<Item> {
        match *self.rest.first()? {
            b'?' => {
                self.next();
                match self.next()? {
                    b'0' => Some(Item::Boolean(false)),
                    b'1' => Some(Item::Boolean(true)),
                    _ => None,
                }
            }
            b'-' | b'0'..=b'9' => self.number(),
            b'"' => self.text(),
            b':' => {
                self.next();
                let bytes = self.take(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte));
                self.eat(b':').then_some(Item::Bytes(bytes))
            }
            b'@' => {
                self.next();
                match self.number()? {
                    Item::Integer(_) => Some(Item::Other),
                    Item::Boolean(_) | Item::Text(_) | Item::Bytes(_) | Item::Other => None,
                }
            }
            b'%' => {
                self.next();
                matches!(self.text()?, Item::Text(_)).then_some(Item::Other)
            }
            first if first.is_ascii_alphabetic() || first == b'*' => {
                self.take(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte));
                Some(Item::Other)
            }
            _ => None,
        }
    }

    fn number(&mut self) -> Option<Item> {
        let negative = self.eat(b'-');
        let whole = self.take(|byte| byte.is_ascii_digit());
        if whole.is_empty() || whole.len() > 15 {
            return None;
        }
        if self.eat(b'.') {
            let fraction = self.take(|byte| byte.is_ascii_digit());
            return (whole.len() <= 12 && (1..=3).contains(&fraction.len())).then_some(Item::Other);
        }
        let value = whole.parse::<i64>().ok()?;
        Some(Item::Integer(if negative { -value } else { value }))
    }

    fn text(&mut self) -> Option<Item> {
        self.eat(b'"');
        let mut text = String::new();
        loop {
            match self.next()? {
                b'"' => return Some(Item::Text(text)),
                b'\\' => match self.next()? {
                    escaped @ (b'"' | b'\\') => text.push(char::from(escaped)),
                    _ => return None,
                },
                byte @ 0x20..=0x7e => text.push(char::from(byte)),
                _ => return None,
            }
        }
    }
}

/// Members of one dictionary; RFC 9651 4.2.2 asks that 1,024 be taken, directives need a few.
const MEMBERS: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Vec<(String, Item)>> {
        dictionary(text.as_bytes())
    }

    #[test]
    fn members_are_read_and_the_last_of_equals_counts() {
        assert_eq!(
            read("max-age=60, no-store;x=1, a=\"b\\\"c\" ,max-age=5,  t=tok/en, d=1.5, l=(1 2);q, b=:aa==:, n=-3"),
            Some(vec![
                ("no-store".into(), Item::Boolean(true)),
                ("a".into(), Item::Text("b\"c".into())),
                ("max-age".into(), Item::Integer(5)),
                ("t".into(), Item::Other),
                ("d".into(), Item::Other),
                ("l".into(), Item::Other),
                ("b".into(), Item::Bytes("aa==".into())),
                ("n".into(), Item::Integer(-3)),
            ])
        );
        assert_eq!(read("a=?0"), Some(vec![("a".into(), Item::Boolean(false))]));
    }

    #[test]
    fn one_wrong_byte_makes_it_nothing() {
        for wrong in [
            "",
            " ",
            "Max-age=1",
            "max-age =1",
            "max-age= 1",
            "a,",
            ",a",
            "a,,b",
            "a=\"b",
            "a=1.",
            "a=1.2345",
            "a=?2",
            "a='1'",
            "a=1 b",
            "a;",
            "a=(1",
            "a=(1,2)",
            "a=\u{e9}",
            "a=1234567890123456",
            "=1",
            "a=",
        ] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        bolero::check!().with_iterations(20_000).for_each(|bytes: &[u8]| {
            if let Some(members) = dictionary(bytes) {
                assert!(!members.is_empty());
            }
        });
    }
}
