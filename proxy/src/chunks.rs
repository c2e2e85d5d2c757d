//! Chunked request bodies by their bytes (RFC 9112 7.1), stricter than the parser behind: where two readers could disagree about
//! where a chunk ends, the body is refused. Nothing is decoded here; good bytes go on as they are.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)
)]

/// Follows one chunked body.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    at: At,
    /// The size being read.
    size: u64,
    digits: u8,
    /// Bytes of extensions and trailers so far.
    beside: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum At {
    /// The digits of a size.
    #[default]
    Size,
    /// After `;`, up to the line's end.
    Extension,
    /// The LF that ends a size's line.
    SizeEnd,
    /// This many bytes of data.
    Data(u64),
    /// The CR, then the LF after data.
    DataCr,
    DataLf,
    /// The first byte of a line after the last chunk.
    TrailerStart,
    Trailer,
    TrailerEnd,
    /// The LF of the line that ends it all.
    LastLf,
    Done,
}

/// A byte that may not stand where it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadChunk;

impl Chunks {
    /// How many of these bytes belong to the body; all of them are good.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<usize, BadChunk> {
        let mut rest = bytes;
        while !self.is_done() {
            if let At::Data(left) = self.at {
                let count = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                let Some((_, after)) = rest.split_at_checked(count) else { break };
                rest = after;
                let left = left - u64::try_from(count).unwrap_or(left);
                self.at = if left == 0 { At::DataCr } else { At::Data(left) };
                if left > 0 {
                    break;
                }
                continue;
            }
            let Some((first, after)) = rest.split_first() else { break };
            self.at = self.byte(*first).ok_or(BadChunk)?;
            rest = after;
        }
        Ok(bytes.len() - rest.len())
    }

    /// Whether the body has ended.
    pub(crate) fn is_done(&self) -> bool {
        self.at == At::Done
    }

    fn byte(&mut self, byte: u8) -> Option<At> {
        match (self.at, byte) {
            (At::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                self.digits += 1;
                let digit = char::from(byte).to_digit(16)?;
                self.size = self.size.checked_mul(16)?.checked_add(u64::from(digit))?;
                (self.digits <= DIGITS).then_some(At::Size)
            }
            (At::Size, b';') if self.digits > 0 => Some(At::Extension),
            (At::Size, b'\r') if self.digits > 0 => Some(At::SizeEnd),
            (At::Extension, b'\r') => Some(At::SizeEnd),
            (At::Extension, b'\t' | 0x20..=0x7e) => self.beside().then_some(At::Extension),
            (At::SizeEnd, b'\n') => {
                self.digits = 0;
                Some(match std::mem::take(&mut self.size) {
                    0 => At::TrailerStart,
                    size => At::Data(size),
                })
            }
            (At::DataCr, b'\r') => Some(At::DataLf),
            (At::DataLf, b'\n') => Some(At::Size),
            (At::TrailerStart, b'\r') => Some(At::LastLf),
            (At::TrailerStart, 0x21..=0x7e) => self.beside().then_some(At::Trailer),
            (At::Trailer, b'\r') => Some(At::TrailerEnd),
            (At::Trailer, b'\t' | 0x20..=0x7e) => self.beside().then_some(At::Trailer),
            (At::TrailerEnd, b'\n') => Some(At::TrailerStart),
            (At::LastLf, b'\n') => Some(At::Done),
            (
                At::Size
                | At::Extension
                | At::SizeEnd
                | At::Data(_)
                | At::DataCr
                | At::DataLf
                | At::TrailerStart
                | At::Trailer
                | At::TrailerEnd
                | At::LastLf
                | At::Done,
                _,
            ) => None,
        }
    }

    fn beside(&mut self) -> bool {
        self.beside += 1;
        self.beside <= BESIDE
    }
}

/// Digits of a size: what fits 2^60 with room, far below an overflow.
const DIGITS: u8 = 15;

/// Bytes of all extensions and trailers of a body.
const BESIDE: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    fn take(text: &str) -> Result<(usize, bool), BadChunk> {
        let mut chunks = Chunks::default();
        let count = chunks.take(text.as_bytes())?;
        Ok((count, chunks.is_done()))
    }

    #[test]
    fn a_body_ends_where_its_last_chunk_says() {
        let body = "5\r\nhello\r\nA;x=\"y\"\r\n0123456789\r\n0\r\nX: y\r\n\r\n";
        assert_eq!(take(&format!("{body}GET /")), Ok((body.len(), true)));
        let mut chunks = Chunks::default();
        for byte in body.as_bytes() {
            assert!(!chunks.is_done());
            assert_eq!(chunks.take(&[*byte]), Ok(1));
        }
        assert!(chunks.is_done());
        assert_eq!(take("5\r\nhel"), Ok((6, false)));
    }

    // H04
    #[test]
    fn what_two_readers_could_read_in_two_ways_is_refused() {
        for bad in [
            "\r\n",
            "0x5\r\nhello\r\n",
            "+5\r\nhello\r\n",
            " 5\r\nhello\r\n",
            "5 \r\nhello\r\n",
            "5g\r\nhello\r\n",
            "00000000000000005\r\nhello\r\n",
            "5\nhello\r\n",
            "5\rXhello\r\n",
            "5\r\nhelloX",
            "5\r\nhello\n",
            "5\r\nhello\rX",
            "5\r\nhello\r\n\r\n",
            "5;a\nb\r\nhello\r\n",
            "5;\0\r\n",
            "0\r\n\n",
            "0\r\n X: y\r\n\r\n",
            "-1\r\n",
            ";a\r\n",
            "0\r\nX: y\n\r\n",
        ] {
            assert_eq!(take(bad), Err(BadChunk), "{bad:?}");
        }
        assert_eq!(take(&format!("5;{}\r\nhello\r\n", "a".repeat(1 << 20))), Err(BadChunk));
        assert_eq!(take(&format!("0\r\n{}\r\n", "X: y\r\n".repeat(10_000))), Err(BadChunk));
        assert!(take(&"1\r\na\r\n".repeat(100_000)).is_ok());
    }

    #[test]
    fn no_bytes_make_it_panic_and_cuts_change_nothing() {
        bolero::check!().with_iterations(20_000).for_each(|bytes: &[u8]| {
            let mut whole = Chunks::default();
            let mut cut = Chunks::default();
            let once = whole.take(bytes);
            let (one, two) = bytes.split_at(bytes.len() / 2);
            let twice = cut.take(one).and_then(|first| {
                if first < one.len() { Ok(first) } else { cut.take(two).map(|second| first + second) }
            });
            assert_eq!(once, twice);
        });
    }
}
