//! What a request asks for: Hornet's API, read from method and target alone.
//!
//! | method | target | |
//! |---|---|---|
//! | GET, HEAD | `/DIR/ID` | the object |
//! | PUT, POST | `/DIR/ID?tag1=..&tag2=..&tag3=..&tag4=..&expire=SECONDS` | stores it; a tag left out is 0 |
//! | DELETE, DEL | `/DIR/ID?tag1=..&tag2=..&tag3=..&tag4=..` | deletes what matches; a tag left out or 65535 is not looked at |
//! | DELETE, DEL | `/DIR/0?..` | ... in the whole directory |
//! | DELETE, DEL | `/0/0?..` | ... everywhere |
//! | GET, HEAD | `/purge/NUMBER` | how far that deletion is |
//!
//! Numbers are plain decimals up to 2^64 - 1, tags up to 65535. What is not exactly this is refused with a line that names the
//! offending part: a deletion that was meant otherwise must not take place.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)
)]

use std::time::Duration;

use atoll_store::{Key, PurgeNumber, Tags};

use super::{answer::Status, head::number};

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// An object; with its body unless `head_only`.
    Get {
        /// Which.
        name: Name,
        /// HEAD.
        head_only: bool,
    },
    /// To keep the body that follows.
    Put {
        /// Under which name.
        name: Name,
        /// Its tags.
        tags: Tags,
        /// For how long; `None`: as configured.
        expire: Option<Duration>,
    },
    /// To delete.
    Delete(Deletion),
    /// How far a deletion is.
    Progress {
        /// Which.
        number: PurgeNumber,
        /// HEAD.
        head_only: bool,
    },
}

/// The name of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Name {
    /// The directory, such as a hash of the host.
    pub(super) dir: u64,
    /// The object in it, such as a hash of the path.
    pub(super) id: u64,
}

/// What to delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Deletion {
    /// 0: every directory.
    pub(super) dir: u64,
    /// 0: every object.
    pub(super) id: u64,
    /// Bits of [`Tags::bits`] to be compared, whole tags.
    pub(super) mask: u64,
    /// What they must be.
    pub(super) value: u64,
}

/// Why a request is refused. The connection goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) status: Status,
    pub(super) line: String,
}

impl Asked {
    /// Reads a request's method and target.
    pub(super) fn read(method: &[u8], target: &[u8]) -> Result<Self, Refused> {
        let verb = match method {
            b"GET" => Verb::Get,
            b"HEAD" => Verb::Head,
            b"PUT" | b"POST" => Verb::Put,
            b"DELETE" | b"DEL" => Verb::Delete,
            other => return Err(refused(Status::METHOD_NOT_ALLOWED, format!("{} is not served here", shown(other)))),
        };
        let target = origin_form(target);
        let (path, query) = match target.iter().position(|byte| *byte == b'?') {
            Some(at) => (target.get(..at).unwrap_or_default(), target.get(at + 1..)),
            None => (target, None),
        };
        let (first, second) = parts(path)?;
        let head_only = verb == Verb::Head;
        if first == b"purge" && matches!(verb, Verb::Get | Verb::Head) {
            no_arguments(query)?;
            return Ok(Self::Progress { number: PurgeNumber(decimal("the purge's number", second)?), head_only });
        }
        let name = Name { dir: decimal("the directory", first)?, id: decimal("the id", second)? };
        match verb {
            Verb::Get | Verb::Head => {
                no_arguments(query)?;
                Ok(Self::Get { name, head_only })
            }
            Verb::Put => put(name, &Arguments::read(query, true)?),
            Verb::Delete => delete(name, &Arguments::read(query, false)?),
        }
    }
}

impl Name {
    /// The object's key in the store: the two numbers themselves, which no two objects share.
    pub(super) fn key(self) -> Key {
        let mut bytes = [0; Key::LENGTH];
        let both = self.dir.to_le_bytes().into_iter().chain(self.id.to_le_bytes());
        bytes.iter_mut().zip(both).for_each(|(to, from)| *to = from);
        Key::from_bytes(bytes)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Get,
    Head,
    Put,
    Delete,
}

/// What stood behind the question mark.
#[derive(Default)]
struct Arguments {
    tags: [Option<u16>; 4],
    expire: Option<u64>,
}

impl Arguments {
    fn read(query: Option<&[u8]>, with_expire: bool) -> Result<Self, Refused> {
        let mut found = Self::default();
        for argument in query.into_iter().filter(|all| !all.is_empty()).flat_map(|all| all.split(|byte| *byte == b'&'))
        {
            let Some(at) = argument.iter().position(|byte| *byte == b'=') else {
                return Err(bad(format!("argument {} has no value", shown(argument))));
            };
            let (name, value) = (argument.get(..at).unwrap_or_default(), argument.get(at + 1..).unwrap_or_default());
            match name {
                b"tag1" | b"tag2" | b"tag3" | b"tag4" => {
                    let index = name.last().map_or(0, |digit| usize::from(digit - b'1'));
                    let slot = found.tags.get_mut(index).ok_or_else(|| bad("no such tag".to_owned()))?;
                    once(slot, name, tag(name, value)?)?;
                }
                b"expire" if with_expire => once(&mut found.expire, name, decimal("expire", value)?)?,
                b"expire" => return Err(bad("a deletion takes no expire".to_owned())),
                other => {
                    let known = if with_expire { "tag1 to tag4 and expire" } else { "tag1 to tag4" };
                    return Err(bad(format!("unknown argument {}: there are {known}", shown(other))));
                }
            }
        }
        Ok(found)
    }
}

fn put(name: Name, arguments: &Arguments) -> Result<Asked, Refused> {
    if name.dir == 0 || name.id == 0 {
        return Err(bad("directory 0 and id 0 stand for all and name no object".to_owned()));
    }
    if let Some(at) = arguments.tags.iter().position(|tag| *tag == Some(ANY_TAG)) {
        return Err(bad(format!("tag{}=65535 stands for any tag and is none", at + 1)));
    }
    let tags = Tags(arguments.tags.map(Option::unwrap_or_default));
    Ok(Asked::Put { name, tags, expire: arguments.expire.map(Duration::from_secs) })
}

fn delete(name: Name, arguments: &Arguments) -> Result<Asked, Refused> {
    if name.dir == 0 && name.id != 0 {
        return Err(bad("directory 0 stands for all and goes with id 0 only".to_owned()));
    }
    let looked_at = arguments.tags.map(|tag| tag.filter(|tag| *tag != ANY_TAG));
    let mask = Tags(looked_at.map(|tag| if tag.is_some() { u16::MAX } else { 0 })).bits();
    let value = Tags(looked_at.map(Option::unwrap_or_default)).bits();
    Ok(Asked::Delete(Deletion { dir: name.dir, id: name.id, mask, value }))
}

/// The two parts of `/FIRST/SECOND`.
fn parts(path: &[u8]) -> Result<(&[u8], &[u8]), Refused> {
    let wrong = || bad(format!("the path {} is not /DIR/ID", shown(path)));
    let rest = path.strip_prefix(b"/").ok_or_else(wrong)?;
    let mut parts = rest.split(|byte| *byte == b'/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(first), Some(second), None) => Ok((first, second)),
        _ => Err(wrong()),
    }
}

/// Without the `http://AUTHORITY` that a client may put before the path [RFC 9112 3.2.2].
fn origin_form(target: &[u8]) -> &[u8] {
    let Some(scheme) = target.first_chunk::<7>().filter(|scheme| scheme.eq_ignore_ascii_case(b"http://")) else {
        return target;
    };
    let rest = target.get(scheme.len()..).unwrap_or_default();
    rest.iter().position(|byte| *byte == b'/').and_then(|at| rest.get(at..)).unwrap_or_default()
}

fn no_arguments(query: Option<&[u8]>) -> Result<(), Refused> {
    match query {
        None | Some(b"") => Ok(()),
        Some(query) => Err(bad(format!("unknown argument {}: GET takes none", shown(query)))),
    }
}

fn tag(name: &[u8], value: &[u8]) -> Result<u16, Refused> {
    let wrong = || bad(format!("{}={} is not a number from 0 to 65535", name.escape_ascii(), shown(value)));
    number(value).and_then(|value| u16::try_from(value).ok()).ok_or_else(wrong)
}

fn decimal(what: &str, text: &[u8]) -> Result<u64, Refused> {
    let wrong = || bad(format!("{what} {} is not a number from 0 to {}", shown(text), u64::MAX));
    number(text).ok_or_else(wrong)
}

fn once<T>(slot: &mut Option<T>, name: &[u8], value: T) -> Result<(), Refused> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(bad(format!("argument {} came twice", name.escape_ascii()))),
    }
}

/// A piece of a request for a message: quoted, printable, not long.
fn shown(bytes: &[u8]) -> String {
    let (part, rest) = bytes.split_at(bytes.len().min(SHOWN_LIMIT));
    format!("\"{}{}\"", part.escape_ascii(), if rest.is_empty() { "" } else { "..." })
}

fn bad(line: String) -> Refused {
    refused(Status::BAD_REQUEST, line)
}

fn refused(status: Status, line: String) -> Refused {
    Refused { status, line }
}

/// In a deletion: this tag is not looked at \[Hornet\].
const ANY_TAG: u16 = 65_535;

/// Bytes of a request that a message repeats.
const SHOWN_LIMIT: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Asked, Refused> {
        let (method, target) = line.split_once(' ').unwrap();
        Asked::read(method.as_bytes(), target.as_bytes())
    }

    fn deletion(line: &str) -> Deletion {
        let Asked::Delete(deletion) = read(line).unwrap() else { panic!("{line} deletes nothing") };
        deletion
    }

    #[test]
    fn an_object_is_named_by_two_numbers_of_64_bits() {
        let name = Name { dir: 12_345, id: u64::MAX };
        let target = "/12345/18446744073709551615";
        assert_eq!(read(&format!("GET {target}")), Ok(Asked::Get { name, head_only: false }));
        assert_eq!(read(&format!("HEAD http://a.test{target}")), Ok(Asked::Get { name, head_only: true }));
        let put = Asked::Put { name, tags: Tags::default(), expire: None };
        assert_eq!((read(&format!("PUT {target}")), read(&format!("POST {target}?"))), (Ok(put), Ok(put)));
        assert_ne!(name.key(), Name { dir: u64::MAX, id: 12_345 }.key());
    }

    #[test]
    fn arguments_come_in_any_order() {
        let asked = read("PUT /1/2?expire=60&tag4=4&tag1=65534").unwrap();
        let name = Name { dir: 1, id: 2 };
        let expire = Some(Duration::from_secs(60));
        assert_eq!(asked, Asked::Put { name, tags: Tags([65_534, 0, 0, 4]), expire });
    }

    /// The README's four examples, and the wildcards that its code never reached.
    #[test]
    fn a_deletion_looks_only_at_tags_that_are_named() {
        let all = Deletion { dir: 0, id: 0, mask: 0, value: 0 };
        assert_eq!(deletion("DEL /12345/654123?tag1=1"), Deletion { dir: 12_345, id: 654_123, mask: 0xffff, value: 1 });
        assert_eq!(deletion("DEL /12345/0?tag1=1"), Deletion { dir: 12_345, id: 0, mask: 0xffff, value: 1 });
        assert_eq!(deletion("DEL /12345/0?tag1=65535"), Deletion { dir: 12_345, ..all });
        assert_eq!(deletion("DEL /0/0?tag1=65535"), all);
        assert_eq!(deletion("DELETE /0/0"), all);
        let last = Deletion { mask: 0xffff << 48, value: 7 << 48, ..all };
        assert_eq!(deletion("DELETE /0/0?tag4=7&tag2=65535"), last);
        // A tag that is named 0 is looked at.
        assert_eq!(deletion("DELETE /0/0?tag3=0"), Deletion { mask: 0xffff << 32, ..all });
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, told) in [
            ("PUT /1/2?tag1=abc", "tag1=\"abc\" is not a number from 0 to 65535"),
            ("PUT /1/2?tag1=70000", "tag1=\"70000\" is not a number from 0 to 65535"),
            ("PUT /1/2?tag1=", "tag1=\"\" is not a number from 0 to 65535"),
            ("PUT /1/2?tag1=65535", "tag1=65535 stands for any tag and is none"),
            ("PUT /1/2?tag0=1", "unknown argument \"tag0\": there are tag1 to tag4 and expire"),
            ("PUT /1/2?tag5=1", "unknown argument \"tag5\": there are tag1 to tag4 and expire"),
            ("PUT /1/2?$tag2=1", "unknown argument \"$tag2\": there are tag1 to tag4 and expire"),
            ("PUT /1/2?tag1=1&tag1=1", "argument tag1 came twice"),
            ("PUT /1/2?expire=1&expire=2", "argument expire came twice"),
            ("PUT /1/2?expire=-1", "expire \"-1\" is not a number from 0 to 18446744073709551615"),
            ("PUT /1/2?tag1=1&", "argument \"\" has no value"),
            ("PUT /0/2", "directory 0 and id 0 stand for all and name no object"),
            ("PUT /1/0", "directory 0 and id 0 stand for all and name no object"),
            ("DELETE /0/2", "directory 0 stands for all and goes with id 0 only"),
            ("DELETE /1/2?expire=1", "a deletion takes no expire"),
            (
                "GET /1/123456789012345678901",
                "the id \"123456789012345678901\" is not a number from 0 to 18446744073709551615",
            ),
            (
                "GET /1/18446744073709551616",
                "the id \"18446744073709551616\" is not a number from 0 to 18446744073709551615",
            ),
            ("GET /a/2", "the directory \"a\" is not a number from 0 to 18446744073709551615"),
            ("GET /%31/2", "the directory \"%31\" is not a number from 0 to 18446744073709551615"),
            ("GET /1//2", "the path \"/1//2\" is not /DIR/ID"),
            ("GET /1", "the path \"/1\" is not /DIR/ID"),
            ("GET http://a.test", "the path \"\" is not /DIR/ID"),
            ("GET *", "the path \"*\" is not /DIR/ID"),
            ("GET /1/2?tag1=1", "unknown argument \"tag1=1\": GET takes none"),
            ("GET /purge/x", "the purge's number \"x\" is not a number from 0 to 18446744073709551615"),
        ] {
            let Refused { status, line: found } = read(line).unwrap_err();
            assert_eq!((status, &*found), (Status::BAD_REQUEST, told), "{line}");
        }
        let Refused { status, line } = read("PATCH /1/2").unwrap_err();
        assert_eq!((status, &*line), (Status::METHOD_NOT_ALLOWED, "\"PATCH\" is not served here"));
        // What a message repeats is cut and printable.
        let long = read(&format!("GET /{}\u{1b}/1", "9".repeat(5_000))).unwrap_err().line;
        assert!(long.len() < 200 && long.is_ascii(), "{long}");
    }

    #[test]
    fn any_method_and_target_are_read_without_a_panic_and_mean_one_thing() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let at = bytes.iter().position(|byte| *byte == b' ').unwrap_or(0);
            let (method, target) = (&bytes[..at], bytes.get(at + 1..).unwrap_or_default());
            match Asked::read(method, target) {
                Ok(Asked::Put { name, tags, .. }) => {
                    assert!(name.dir != 0 && name.id != 0 && !tags.0.contains(&ANY_TAG));
                }
                Ok(Asked::Delete(Deletion { dir, id, mask, value })) => {
                    assert!((dir != 0 || id == 0) && value & !mask == 0);
                }
                Ok(Asked::Get { .. } | Asked::Progress { .. }) => {}
                Err(refused) => assert!(refused.line.is_ascii() && refused.line.len() < 300),
            }
        });
    }
}
