//! The file that `atoll store export` writes: objects one after another, of no store's layout.
//!
//! ```text
//! file     "AtolExp1", objects, then the end
//! object   0 1 byte 1 | 1 20 key | 21 8 directory | 29 8 tags | 37 8 expires, ms since 1970, or 2^64-1 | 45 4 bytes of metadata
//!          49 8 bytes of body | 57 4 CRC-32 of bytes 0..57 and the metadata | metadata | body | CRC-32 of the body
//! end      0 1 byte 2 | 1 8 objects
//! ```
//!
//! Numbers are little-endian. Purge numbers are a store's own and stay behind: an object that is taken in is as young as the
//! purges that the store knows.

use std::io::{self, Read, Write};
use std::time::{Duration, SystemTime};

use atoll_store::{Head, Key, PurgeNumber, Tags};
use bytes::Bytes;

/// What can be wrong with an exported file.
#[derive(Debug, thiserror::Error)]
pub enum PortableError {
    /// It was not written by `atoll store export`.
    #[error("this is no file of `atoll store export`")]
    Foreign,
    /// It ends before its end, or does not hold what it should.
    #[error("the file is damaged after {objects} objects: {reason}")]
    Damaged {
        /// Objects before that.
        objects: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// The system's.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What the next piece of a file is.
#[derive(Debug)]
pub enum Piece {
    /// An object, whose body is read next.
    Object(Head),
    /// The end, after so many objects.
    End(u64),
}

const MAGIC: &[u8; 8] = b"AtolExp1";
const OBJECT: u8 = 1;
const END: u8 = 2;
const NEVER: u64 = u64::MAX;
/// Bytes of metadata beyond which a file is taken for damaged.
const METADATA_MOST: u32 = 1 << 20;

/// Begins a file.
pub fn begin(out: &mut impl Write) -> io::Result<()> {
    out.write_all(MAGIC)
}

/// Writes what comes before an object's body.
pub fn write_head(out: &mut impl Write, head: &Head) -> io::Result<()> {
    let milliseconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    let expires = head.expires.map_or(NEVER, |time| u64::try_from(milliseconds(time)).unwrap_or(NEVER));
    let metadata = u32::try_from(head.metadata.len()).map_err(io::Error::other)?;
    let mut front = vec![OBJECT];
    front.extend_from_slice(head.key.as_bytes());
    for number in [head.directory, head.tags.bits(), expires] {
        front.extend_from_slice(&number.to_le_bytes());
    }
    front.extend_from_slice(&metadata.to_le_bytes());
    front.extend_from_slice(&head.length.unwrap_or_default().to_le_bytes());
    let sum = crc32(&[&front, &head.metadata]);
    out.write_all(&front)?;
    out.write_all(&sum.to_le_bytes())?;
    out.write_all(&head.metadata)
}

/// Ends a file.
pub fn end(out: &mut impl Write, objects: u64) -> io::Result<()> {
    out.write_all(&[END])?;
    out.write_all(&objects.to_le_bytes())
}

/// Checks how a file begins.
pub fn check_begin(input: &mut impl Read) -> Result<(), PortableError> {
    let mut magic = [0; MAGIC.len()];
    match input.read_exact(&mut magic) {
        Ok(()) if magic == *MAGIC => Ok(()),
        Ok(()) => Err(PortableError::Foreign),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(PortableError::Foreign),
        Err(error) => Err(error.into()),
    }
}

/// Reads up to the next object's body, or the end, after so many objects.
pub fn read_head(input: &mut impl Read, objects: u64) -> Result<Piece, PortableError> {
    let damaged = |reason| PortableError::Damaged { objects, reason };
    match take::<1>(input, objects)? {
        [OBJECT] => {}
        [END] => {
            let count = u64::from_le_bytes(take(input, objects)?);
            return if count == objects { Ok(Piece::End(count)) } else { Err(damaged("objects are missing")) };
        }
        _ => return Err(damaged("no object begins here")),
    }
    let (key, directory, tags) = (take::<20>(input, objects)?, take::<8>(input, objects)?, take::<8>(input, objects)?);
    let (expires, count) = (take::<8>(input, objects)?, take::<4>(input, objects)?);
    let (length, sum) = (take::<8>(input, objects)?, take::<4>(input, objects)?);
    if u32::from_le_bytes(count) > METADATA_MOST {
        return Err(damaged("its metadata is longer than any may be"));
    }
    let mut metadata = vec![0; usize::try_from(u32::from_le_bytes(count)).unwrap_or_default()];
    input.read_exact(&mut metadata).map_err(|error| cut(error, objects))?;
    let fields: [&[u8]; 8] = [&[OBJECT], &key, &directory, &tags, &expires, &count, &length, &metadata];
    if crc32(&fields) != u32::from_le_bytes(sum) {
        return Err(damaged("a checksum does not match"));
    }
    let expires = Some(u64::from_le_bytes(expires)).filter(|ms| *ms != NEVER);
    let time = |ms| SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(ms));
    Ok(Piece::Object(Head {
        key: Key::from_bytes(key),
        directory: u64::from_le_bytes(directory),
        tags: Tags::from_bits(u64::from_le_bytes(tags)),
        expires: expires.map(|ms| time(ms).ok_or_else(|| damaged("a time that cannot be"))).transpose()?,
        metadata: Bytes::from(metadata),
        length: Some(u64::from_le_bytes(length)),
        born: PurgeNumber(0),
    }))
}

/// The checksum that follows a body.
pub fn read_sum(input: &mut impl Read, objects: u64) -> Result<u32, PortableError> {
    Ok(u32::from_le_bytes(take(input, objects)?))
}

/// A body, or what it was cut short by, told as damage.
pub fn cut(error: io::Error, objects: u64) -> PortableError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => PortableError::Damaged { objects, reason: "it ends early" },
        _ => error.into(),
    }
}

fn take<const N: usize>(input: &mut impl Read, objects: u64) -> Result<[u8; N], PortableError> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes).map_err(|error| cut(error, objects))?;
    Ok(bytes)
}

fn crc32(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head {
            key: Key::from_bytes(*b"twenty bytes of key."),
            directory: 7,
            tags: Tags([1, 2, 3, 0xffff]),
            expires: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123)),
            metadata: "some metadata".into(),
            length: Some(5),
            born: PurgeNumber(0),
        }
    }

    fn file() -> Vec<u8> {
        let mut bytes = Vec::new();
        begin(&mut bytes).unwrap();
        write_head(&mut bytes, &head()).unwrap();
        bytes.extend_from_slice(b"hello");
        bytes.extend_from_slice(&crc32(&[b"hello"]).to_le_bytes());
        end(&mut bytes, 1).unwrap();
        bytes
    }

    /// Reads a file with one object of five bytes.
    fn read(mut input: &[u8]) -> Result<Head, PortableError> {
        check_begin(&mut input)?;
        let Piece::Object(head) = read_head(&mut input, 0)? else { return Err(PortableError::Foreign) };
        let body: [u8; 5] = take(&mut input, 0)?;
        if read_sum(&mut input, 0)? != crc32(&[&body]) {
            return Err(PortableError::Damaged { objects: 0, reason: "body" });
        }
        match read_head(&mut input, 1)? {
            Piece::End(1) => Ok(head),
            _ => Err(PortableError::Foreign),
        }
    }

    #[test]
    fn an_object_is_read_as_it_was_written_and_no_flipped_bit_or_cut_passes() {
        let file = file();
        assert_eq!(read(&file).unwrap(), head());
        for bit in 0..file.len() * 8 {
            let mut flipped = file.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&flipped).is_err(), "bit {bit}");
        }
        for cut in 0..file.len() {
            assert!(read(&file[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn foreign_bytes_never_panic() {
        bolero::check!().for_each(|bytes: &[u8]| {
            drop(read(bytes));
            drop(read_head(&mut [&[OBJECT], bytes].concat().as_slice(), 0));
        });
    }
}
