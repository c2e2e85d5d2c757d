//! Distances between places: a measured RTT matrix, or a small CSV of named cities. Owns both readers.
//!
//! `.tri16` is little endian: magic `RTT1`, u32 n, u32 unit in microseconds, then the strict upper triangle row by row
//! as n(n-1)/2 u16 values times the unit; 65535 means "not measured". A city CSV has a head line
//! `city,NAME,NAME,...` and one line `NAME,RTT,RTT,...` per city, in milliseconds, square and symmetric, diagonal 0.

use std::time::Duration;

/// RTTs between n places; each place has a row, in a CSV also a name.
#[derive(Clone, Debug)]
pub struct Matrix {
    places: usize,
    /// The whole square, row by row; `None` where nobody measured.
    rtt: Vec<Option<Duration>>,
    names: Vec<String>,
}

impl Matrix {
    /// Reads either format; the CSV is recognised by its missing magic. The error is one line without the file's name.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        if bytes.starts_with(b"RTT1") {
            return Self::read_tri16(bytes);
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::read_csv(text),
            Err(_) => Err("neither a .tri16 matrix (no magic RTT1) nor a CSV of cities (not text)".into()),
        }
    }

    /// How many places there are.
    pub fn places(&self) -> usize {
        self.places
    }

    /// The RTT between two places; the same place is [`Matrix::INSIDE`]. `None` if unknown or out of range.
    pub fn rtt(&self, from: usize, to: usize) -> Option<Duration> {
        if from >= self.places || to >= self.places {
            return None;
        }
        if from == to { Some(Self::INSIDE) } else { *self.rtt.get(from * self.places + to)? }
    }

    /// The row of the city of this name.
    pub fn row_of(&self, city: &str) -> Option<usize> {
        self.names.iter().position(|name| name.eq_ignore_ascii_case(city))
    }

    /// The name of a row: its city, or `row N`.
    pub fn name_of(&self, row: usize) -> String {
        self.names.get(row).cloned().unwrap_or_else(|| format!("row {row}"))
    }

    /// Inside one site a packet and its answer take this long.
    pub const INSIDE: Duration = Duration::from_micros(300);

    fn read_tri16(bytes: &[u8]) -> Result<Self, String> {
        let word = |at: usize| -> Option<u32> { Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?)) };
        let (Some(places), Some(unit)) = (word(4), word(8)) else {
            return Err("a .tri16 matrix ends inside its head".into());
        };
        if places > MOST_PLACES {
            return Err(format!("{places} places are more than the {MOST_PLACES} this reads"));
        }
        let places = places as usize;
        let pairs = places * places.saturating_sub(1) / 2;
        let body = bytes.get(12..).unwrap_or_default();
        if body.len() != pairs * 2 {
            return Err(format!("{places} places need {} bytes of pairs, the file has {}", pairs * 2, body.len()));
        }
        let mut rtt = vec![None; places * places];
        let mut values = body.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        for from in 0..places {
            for to in from + 1..places {
                let value = values.next().filter(|value| *value != NOT_MEASURED);
                let value = value.map(|value| Duration::from_micros(u64::from(value) * u64::from(unit)));
                rtt[from * places + to] = value;
                rtt[to * places + from] = value;
            }
        }
        Ok(Self { places, rtt, names: Vec::new() })
    }

    fn read_csv(text: &str) -> Result<Self, String> {
        let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
        let (_, head) = lines.next().ok_or("the file is empty")?;
        let names: Vec<String> = head.split(',').skip(1).map(|name| name.trim().to_owned()).collect();
        let places = names.len();
        if places < 2 || places > MOST_PLACES as usize {
            return Err("line 1: a head line `city,NAME,NAME,...` with two cities or more is expected".into());
        }
        if let Some(twice) = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
            return Err(format!("line 1: the city `{}` is there twice", twice.1));
        }
        let mut rtt = Vec::new();
        for (row, (line, text)) in lines.enumerate() {
            let at = line + 1;
            let mut cells = text.split(',').map(str::trim);
            let (name, wanted) =
                (cells.next().unwrap_or_default(), names.get(row).map_or("no more lines", String::as_str));
            if name != wanted {
                return Err(format!("line {at}: found `{name}` where the head line has `{wanted}`"));
            }
            let before = rtt.len();
            for cell in cells {
                let value = cell.parse::<f64>().ok().filter(|ms| (0.0..=60_000.0).contains(ms));
                let value = value.ok_or_else(|| format!("line {at}: `{cell}` is not an RTT in milliseconds"))?;
                rtt.push(Some(Duration::from_secs_f64(value / 1e3)));
            }
            if rtt.len() - before != places {
                return Err(format!("line {at}: {} values for {places} cities", rtt.len() - before));
            }
        }
        if rtt.len() != places * places {
            return Err(format!("{} lines for {places} cities", rtt.len() / places));
        }
        let unequal = (0..places * places).find(|at| rtt[*at] != rtt[(at % places) * places + at / places]);
        match unequal {
            Some(at) => Err(format!("`{}` and `{}` have two different RTTs", names[at / places], names[at % places])),
            None => Ok(Self { places, rtt, names }),
        }
    }
}

const NOT_MEASURED: u16 = 65_535;
/// Bounds what a file can make us allocate: 4096 squared pairs of 16 bytes are 256 MiB.
const MOST_PLACES: u32 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn tri16(places: u32, values: &[u16]) -> Vec<u8> {
        let mut bytes = b"RTT1".to_vec();
        bytes.extend(places.to_le_bytes());
        bytes.extend(50u32.to_le_bytes());
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        bytes
    }

    #[test]
    fn the_triangle_is_read_row_by_row_in_units_of_the_head() {
        let matrix = Matrix::read(&tri16(3, &[200, 400, 65_535])).unwrap();
        assert_eq!(matrix.rtt(0, 1), Some(Duration::from_millis(10)));
        assert_eq!(matrix.rtt(2, 0), Some(Duration::from_millis(20)));
        assert_eq!(matrix.rtt(1, 2), None);
        assert_eq!(matrix.rtt(1, 1), Some(Matrix::INSIDE));
        assert_eq!(matrix.rtt(0, 3), None);
    }

    #[test]
    fn cities_are_found_by_name() {
        let matrix = Matrix::read(b"city,Oslo,Lima\nOslo,0,210.5\nLima,210.5,0\n").unwrap();
        assert_eq!(matrix.row_of("lima"), Some(1));
        assert_eq!(matrix.rtt(0, 1), Some(Duration::from_micros(210_500)));
    }

    #[test]
    fn a_wrong_matrix_is_refused_with_its_reason() {
        let refused = |bytes: &[u8]| Matrix::read(bytes).unwrap_err();
        assert!(refused(&tri16(3, &[1, 2])).contains("need 6 bytes of pairs, the file has 4"));
        assert!(refused(&tri16(u32::MAX, &[])).contains("more than"));
        assert!(refused(b"RTT1\x01").contains("inside its head"));
        assert!(refused(b"\xff\xfe").contains("neither"));
        assert!(refused(b"city,a,b\na,0,1\nb,2,0").contains("two different RTTs"));
        assert!(refused(b"city,a,b\na,0,x\n").contains("line 2: `x` is not an RTT"));
        assert!(refused(b"city,a,b\na,0,1\n").contains("1 lines for 2 cities"));
    }

    #[test]
    fn no_file_makes_the_reader_panic() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let _ = Matrix::read(bytes);
            let mut with_magic = b"RTT1".to_vec();
            with_magic.extend_from_slice(bytes);
            let _ = Matrix::read(&with_magic);
        });
    }
}
