//! The purge log's bytes, and what is read out of them.
//!
//! ```text
//! file    "AtolPrg1", then frames
//! frame   0 4 magic "PuR1" | 4 4 CRC-32 of what follows | 8 4 ordinal | 12 2 bytes of filter | 14 1 kind | 15 1 selector
//!         16 8 number | 24 selector's fields | filter
//!         selector 0: nothing, only the number is noted   1: key 20   2: directory 8   3: directory 8, mask 8, value 8
//!         4: mask 8, value 8 (any directory)   5: everything.   Bit 7 of the kind: a filter is present
//!         6: nothing born before the number comes in   7: the number is a segment's that has a file of its dead
//! ```
//!
//! Each frame stands twice, so that one flipped bit loses no purge. A last frame that is in neither copy sound was never
//! acknowledged; anything else that is unsound means that purges may be lost.

use std::collections::BTreeSet;
use std::io;

use bytes::Bytes;

use crate::disk::{Disk, DiskFile};
use crate::key::{Key, PurgeNumber};
use crate::purge::{Purge, PurgeKind, Purges, Selector};
use crate::record::{Cursor, DecodeError};

/// What a log held.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) purges: Vec<Purge>,
    pub(crate) latest: PurgeNumber,
    pub(crate) floor: PurgeNumber,
    /// Segments that have a file of their dead.
    pub(crate) dead: BTreeSet<u64>,
    /// Where the last sound frame ends.
    pub(crate) end: u64,
    /// Bytes of the file.
    pub(crate) length: u64,
    pub(crate) frames: usize,
    pub(crate) damaged: bool,
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Framed {
    /// The newest number.
    Latest(PurgeNumber),
    Purge(Purge),
    /// What was born before it does not come in.
    Floor(PurgeNumber),
    /// A segment that has a file of its dead.
    Dead(u64),
}

/// The log's file.
pub(crate) const NAME: &str = "purges";
const FILE_MAGIC: &[u8; 8] = b"AtolPrg1";
const FRAME_MAGIC: &[u8; 4] = b"PuR1";
const WITH_FILTER: u8 = 0x80;
const FLOOR: u8 = 6;
const DEAD: u8 = 7;

/// A log of what is in the table, and its number of frames.
pub(crate) fn contents(table: &Purges, dead: &BTreeSet<u64>) -> (Vec<u8>, usize) {
    let mut bytes = FILE_MAGIC.to_vec();
    let floor = Some(table.floor()).filter(|floor| floor.0 > 0).map(Framed::Floor);
    let front = std::iter::once(Framed::Latest(table.latest())).chain(floor);
    let mut frames = 0;
    for framed in front.chain(table.iter().map(Framed::Purge)).chain(dead.iter().map(|segment| Framed::Dead(*segment)))
    {
        let frame = framed.encode(frames);
        bytes.extend_from_slice(&frame);
        bytes.extend_from_slice(&frame);
        frames += 1;
    }
    (bytes, frames)
}

/// Both copies of the frame of one purge.
pub(crate) fn frame(ordinal: usize, purge: &Purge) -> Vec<u8> {
    Framed::Purge(purge.clone()).encode(ordinal).repeat(2)
}

impl Framed {
    fn encode(&self, ordinal: usize) -> Vec<u8> {
        let mut fields = Vec::new();
        let mut numbers = |numbers: &[u64]| numbers.iter().for_each(|it| fields.extend_from_slice(&it.to_le_bytes()));
        let mut wanted = None;
        let (number, kind) = match self {
            Self::Latest(number) | Self::Floor(number) => (number.0, PurgeKind::Hard),
            Self::Dead(segment) => (*segment, PurgeKind::Hard),
            Self::Purge(purge) => (purge.number.0, purge.kind),
        };
        let selector = match self {
            Self::Latest(_) => 0,
            Self::Floor(_) => FLOOR,
            Self::Dead(_) => DEAD,
            Self::Purge(Purge { selector, .. }) => match selector {
                Selector::Key(key) => {
                    fields.extend_from_slice(key.as_bytes());
                    1
                }
                Selector::Directory(directory) => {
                    numbers(&[*directory]);
                    2
                }
                Selector::Tags { directory, mask, value, filter } => {
                    wanted = filter.as_ref();
                    match directory {
                        Some(directory) => {
                            numbers(&[*directory, *mask, *value]);
                            3
                        }
                        None => {
                            numbers(&[*mask, *value]);
                            4
                        }
                    }
                }
                Selector::All => 5,
            },
        };
        let kind = match kind {
            PurgeKind::Soft => 0,
            PurgeKind::Hard => 1,
        };
        let kind = if wanted.is_some() { kind | WITH_FILTER } else { kind };
        let wanted = wanted.cloned().unwrap_or_default();
        let mut rest = u32::try_from(ordinal).unwrap_or(u32::MAX).to_le_bytes().to_vec();
        rest.extend_from_slice(&u16::try_from(wanted.len()).unwrap_or(u16::MAX).to_le_bytes());
        rest.extend_from_slice(&[kind, selector]);
        rest.extend_from_slice(&number.to_le_bytes());
        rest.extend_from_slice(&fields);
        rest.extend_from_slice(&wanted);
        [&FRAME_MAGIC[..], &crc32fast::hash(&rest).to_le_bytes(), &rest].concat()
    }

    /// The frame at the beginning of `bytes`, its ordinal and how long it is.
    fn decode(bytes: &[u8]) -> Result<(Self, u32, usize), DecodeError> {
        let mut cursor = Cursor(bytes);
        if cursor.take::<4>()? != *FRAME_MAGIC {
            return Err(DecodeError::Magic);
        }
        let sum = cursor.u32()?;
        let rest = cursor.0;
        let ordinal = cursor.u32()?;
        let wanted = usize::from(u16::from_le_bytes(cursor.take()?));
        let [kind, selector] = cursor.take()?;
        let number = PurgeNumber(cursor.u64()?);
        let with_filter = kind & WITH_FILTER != 0;
        let fields = cursor.0.len();
        let mut filter = None;
        let code = selector;
        let mut selector = match code {
            0 | FLOOR | DEAD => None,
            1 => Some(Selector::Key(Key::from_bytes(cursor.take()?))),
            2 => Some(Selector::Directory(cursor.u64()?)),
            3 | 4 => {
                let directory = if code == 3 { Some(cursor.u64()?) } else { None };
                Some(Selector::Tags { directory, mask: cursor.u64()?, value: cursor.u64()?, filter: None })
            }
            5 => Some(Selector::All),
            _ => return Err(DecodeError::Field),
        };
        let fields = fields - cursor.0.len();
        if with_filter {
            filter = Some(Bytes::copy_from_slice(cursor.0.get(..wanted).ok_or(DecodeError::Short)?));
        }
        if let Some(Selector::Tags { filter: slot, .. }) = &mut selector {
            *slot = filter;
        }
        let length = 16 + fields + if with_filter { wanted } else { 0 };
        if crc32fast::hash(rest.get(..length).ok_or(DecodeError::Short)?) != sum {
            return Err(DecodeError::Checksum);
        }
        let kind = if kind & 1 == 0 { PurgeKind::Soft } else { PurgeKind::Hard };
        let framed = match selector {
            Some(selector) => Self::Purge(Purge { number, kind, selector }),
            None if code == FLOOR => Self::Floor(number),
            None if code == DEAD => Self::Dead(number.0),
            None => Self::Latest(number),
        };
        Ok((framed, ordinal, length + 8))
    }
}

impl Contents {
    /// What the log on this disk holds; nothing if there is none.
    pub(crate) fn load(disk: &dyn Disk) -> io::Result<Self> {
        match disk.open(NAME) {
            Ok(file) => Ok(Self::read(&read_all(&*file)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    fn read(bytes: &[u8]) -> Self {
        let mut contents = Self { length: bytes.len() as u64, ..Self::default() };
        if bytes.is_empty() {
            return contents;
        }
        contents.damaged = !bytes.starts_with(FILE_MAGIC);
        let mut at = FILE_MAGIC.len();
        contents.end = at as u64;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            // Past an unsound frame: the next sound one is its copy, or something was lost.
            let Ok((framed, ordinal, length)) = Framed::decode(rest) else {
                at += 1;
                continue;
            };
            at += length;
            contents.end = at as u64;
            match u32::try_from(contents.frames).unwrap_or(u32::MAX).checked_sub(ordinal) {
                Some(0) => contents.add(framed),
                Some(1) => {}
                Some(_) | None => contents.damaged = true,
            }
        }
        contents
    }

    fn add(&mut self, framed: Framed) {
        self.frames += 1;
        match framed {
            Framed::Latest(number) => self.latest = self.latest.max(number),
            Framed::Floor(number) => self.floor = self.floor.max(number),
            Framed::Dead(segment) => drop(self.dead.insert(segment)),
            Framed::Purge(purge) => {
                self.latest = self.latest.max(purge.number);
                self.purges.push(purge);
            }
        }
    }
}

fn read_all(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let length = usize::try_from(file.length()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn table() -> Purges {
        let mut table = Purges::new(16);
        let tags = |directory, filter: Option<&'static str>| Selector::Tags {
            directory,
            mask: 0xff,
            value: 3,
            filter: filter.map(Bytes::from),
        };
        for (selector, kind) in [
            (Selector::All, PurgeKind::Soft),
            (Selector::Key(Key::from_bytes(*b"twenty bytes of key.")), PurgeKind::Hard),
            (Selector::Directory(0x0102), PurgeKind::Soft),
            (tags(Some(7), Some("filter")), PurgeKind::Hard),
            (tags(None, None), PurgeKind::Soft),
        ] {
            table.add(table.next(selector, kind));
        }
        table
    }

    fn bytes() -> Vec<u8> {
        contents(&table(), &BTreeSet::from([3])).0
    }

    #[test]
    fn a_log_is_read_as_it_was_written() {
        let contents = Contents::read(&bytes());
        assert!(!contents.damaged);
        assert_eq!(contents.purges, table().iter().collect::<Vec<_>>());
        assert_eq!((contents.latest, contents.floor), (PurgeNumber(5), PurgeNumber(0)));
        assert_eq!(contents.dead, BTreeSet::from([3]));
        let mut settled = table();
        settled.settle(PurgeNumber(4));
        let contents = Contents::read(&super::contents(&settled, &BTreeSet::new()).0);
        assert_eq!((contents.latest, contents.floor), (PurgeNumber(5), PurgeNumber(4)));
        assert_eq!(contents.purges, settled.iter().collect::<Vec<_>>());
    }

    #[test]
    fn no_flipped_bit_loses_a_purge_unnoticed() {
        let bytes = bytes();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let contents = Contents::read(&flipped);
            assert!(contents.damaged || contents.purges.len() == 5, "bit {bit}");
        }
    }

    #[test]
    fn a_log_cut_at_any_byte_keeps_every_purge_whose_first_copy_is_whole() {
        let bytes = bytes();
        let mut kept = 0;
        for cut in FILE_MAGIC.len()..=bytes.len() {
            let contents = Contents::read(&bytes[..cut]);
            assert!(!contents.damaged && contents.purges.len() >= kept, "cut at {cut}");
            kept = contents.purges.len();
        }
        assert_eq!(kept, 5);
    }

    #[test]
    fn the_layout_does_not_change_by_accident() {
        let bytes = bytes();
        let lines: Vec<String> =
            bytes.chunks(24).map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect()).collect();
        expect![[r#"
            41746f6c50726731507552310f2e994b0000000000000100
            0500000000000000507552310f2e994b0000000000000100
            050000000000000050755231159feec40100000000000005
            010000000000000050755231159feec40100000000000005
            0100000000000000507552319be5bb8f0200000000000101
            02000000000000007477656e7479206279746573206f6620
            6b65792e507552319be5bb8f020000000000010102000000
            000000007477656e7479206279746573206f66206b65792e
            50755231f44b79e203000000000000020300000000000000
            020100000000000050755231f44b79e20300000000000002
            030000000000000002010000000000005075523194d3d8c5
            040000000600810304000000000000000700000000000000
            ff00000000000000030000000000000066696c7465725075
            523194d3d8c5040000000600810304000000000000000700
            000000000000ff0000000000000003000000000000006669
            6c746572507552319ac53a09050000000000000405000000
            00000000ff00000000000000030000000000000050755231
            9ac53a0905000000000000040500000000000000ff000000
            00000000030000000000000050755231a52306ba06000000
            00000107030000000000000050755231a52306ba06000000
            000001070300000000000000"#]]
        .assert_eq(&lines.join("\n"));
    }

    #[test]
    fn foreign_bytes_never_panic() {
        bolero::check!().for_each(|bytes: &[u8]| {
            drop(Contents::read(bytes));
            let dressed = [&FRAME_MAGIC[..], &crc32fast::hash(bytes).to_le_bytes(), bytes].concat();
            drop(Framed::decode(&dressed));
        });
    }
}
