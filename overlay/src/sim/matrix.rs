//! Measured round trips between sites, from a `.tri16` file: magic "RTT1", the number of sites and the unit in microseconds as
//! 32-bit little-endian numbers, then the strict upper triangle row by row as 16-bit ones; 65535 says not measured.

use std::time::Duration;

/// Round trips between sites.
#[derive(Debug, Clone)]
pub struct Matrix {
    sites: usize,
    unit: u32,
    cells: Vec<u16>,
}

impl Matrix {
    /// Reads a file's bytes.
    ///
    /// # Errors
    /// The magic is not there, or the length is not what the header says.
    pub fn parse(bytes: &[u8]) -> Result<Self, MatrixError> {
        let (magic, rest) = bytes.split_first_chunk::<4>().ok_or(MatrixError::Magic)?;
        let (sites, rest) = rest.split_first_chunk::<4>().ok_or(MatrixError::Magic)?;
        let (unit, rest) = rest.split_first_chunk::<4>().ok_or(MatrixError::Magic)?;
        if magic != b"RTT1" {
            return Err(MatrixError::Magic);
        }
        let sites = usize::try_from(u32::from_le_bytes(*sites)).unwrap_or(usize::MAX);
        let expected = sites.checked_mul(sites.saturating_sub(1)).map(|twice| twice / 2);
        let (cells, odd) = rest.as_chunks::<2>();
        if expected != Some(cells.len()) || !odd.is_empty() {
            return Err(MatrixError::Length { sites, bytes: rest.len() });
        }
        let cells = cells.iter().map(|cell| u16::from_le_bytes(*cell)).collect();
        Ok(Self { sites, unit: u32::from_le_bytes(*unit), cells })
    }

    /// Round trips between 490 PlanetLab hosts; see `data/latency/NOTICE`.
    #[must_use]
    pub fn planetlab() -> Self {
        let bytes = include_bytes!("../../../data/latency/planetlab490.tri16");
        Self::parse(bytes).expect("the file of the tree is a matrix")
    }

    /// How many sites it has.
    #[must_use]
    pub const fn sites(&self) -> usize {
        self.sites
    }

    /// The round trip between two sites, numbers taken modulo their count; a little within one, half a second if not measured.
    #[must_use]
    pub fn rtt(&self, one: usize, other: usize) -> Duration {
        let (one, other) = (one % self.sites.max(1), other % self.sites.max(1));
        let (row, column) = (one.min(other), one.max(other));
        if row == column {
            return WITHIN;
        }
        let at = row * self.sites - row * (row + 1) / 2 + (column - row - 1);
        match self.cells.get(at) {
            Some(&cell) if cell != NOT_MEASURED => Duration::from_micros(u64::from(cell) * u64::from(self.unit)),
            Some(_) | None => UNMEASURED_RTT,
        }
    }
}

/// Why bytes are no matrix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MatrixError {
    /// They do not begin as one.
    #[error("not a tri16 matrix: it must begin with RTT1, the number of sites and the unit")]
    Magic,
    /// There are more or fewer round trips than the sites need.
    #[error("{bytes} bytes of round trips do not fit {sites} sites")]
    Length {
        /// Sites by the header.
        sites: usize,
        /// Bytes after it.
        bytes: usize,
    },
}

/// Round trip between two machines of one site.
const WITHIN: Duration = Duration::from_micros(300);

const NOT_MEASURED: u16 = u16::MAX;
const UNMEASURED_RTT: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    fn file(sites: u32, cells: &[u16]) -> Vec<u8> {
        let mut file = b"RTT1".to_vec();
        file.extend(sites.to_le_bytes());
        file.extend(50_u32.to_le_bytes());
        file.extend(cells.iter().flat_map(|cell| cell.to_le_bytes()));
        file
    }

    #[test]
    fn the_upper_triangle_is_read_row_by_row_and_both_ways() {
        let matrix = Matrix::parse(&file(4, &[1, 2, 3, 12, 13, 23])).unwrap();
        for (one, other, cell) in [(0, 1, 1), (0, 3, 3), (1, 2, 12), (3, 2, 23), (2, 2, 6)] {
            assert_eq!(matrix.rtt(one, other), Duration::from_micros(50 * cell), "{one} {other}");
        }
    }

    #[test]
    fn a_length_that_does_not_fit_is_refused_before_anything_is_read() {
        assert_eq!(
            Matrix::parse(&file(u32::MAX, &[1])).unwrap_err(),
            MatrixError::Length { sites: 4_294_967_295, bytes: 2 }
        );
        assert_eq!(Matrix::parse(b"RTT2").unwrap_err(), MatrixError::Magic);
    }
}
