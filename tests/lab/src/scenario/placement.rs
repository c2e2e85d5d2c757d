//! Which matrix row each host sits at: as written, beside another host, or drawn from the scenario's seed.
//!
//! Written places come first, then groups, then rows apart from everything placed so far, then hosts beside others.

use std::time::Duration;

use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use toml::Value;

use crate::{matrix::Matrix, units};

/// The `at` of one `[[host]]`.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum At {
    /// Rows or cities, one for all or one each.
    Written(Vec<Place>),
    /// At the row of another host; `NAME*` pairs by number.
    Beside(String),
    /// So many groups, each of at least `size` hosts that all are `under` an RTT of each other while no two
    /// groups are; hosts left over join the groups in turn.
    Groups { groups: usize, size: usize, under: Duration },
    /// Rows where no other host is; `under` an RTT of at least one host placed before, if given.
    Apart { under: Option<Duration> },
}

/// A row by number or by its city.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Place {
    Row(usize),
    City(String),
}

impl At {
    /// Reads the value of the key `at`.
    pub(super) fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Array(places) => places.iter().map(Place::read).collect::<Result<_, _>>().map(Self::Written),
            Value::Table(table) => Self::read_table(table),
            place => Ok(Self::Written(vec![Place::read(place)?])),
        }
    }

    /// Which are placed first.
    pub(super) fn order(&self) -> u8 {
        match self {
            Self::Written(_) => 0,
            Self::Groups { .. } => 1,
            Self::Apart { .. } => 2,
            Self::Beside(_) => 3,
        }
    }

    fn read_table(table: &toml::Table) -> Result<Self, String> {
        let known: &[&str] = match table.get("draw").and_then(Value::as_str) {
            None if table.contains_key("beside") => &["beside"],
            Some("groups") => &["draw", "groups", "size", "under"],
            Some("apart") => &["draw", "under"],
            _ => return Err("`at`: a table is { beside = \"HOST\" }, { draw = \"groups\", groups, size, under } or { draw = \"apart\", under }".into()),
        };
        if let Some(unknown) = table.keys().find(|key| !known.contains(&key.as_str())) {
            return Err(format!("`at.{unknown}`: unknown, expected {}", known.join(", ")));
        }
        let count = |key: &str, default: i64| {
            let value = table.get(key).map_or(Some(default), Value::as_integer).and_then(|n| usize::try_from(n).ok());
            value.filter(|count| *count >= 1).ok_or_else(|| format!("`at.{key}`: must be a number of 1 or more"))
        };
        let under = |default: &'static str| {
            let text = table.get("under").map_or(Some(default), Value::as_str).unwrap_or_default();
            units::duration(text).map_err(|error| format!("`at.under`: {error}"))
        };
        match table.get("beside") {
            Some(Value::String(host)) => Ok(Self::Beside(host.clone())),
            Some(_) => Err("`at.beside`: must be the name of a host".into()),
            None if known.contains(&"groups") => {
                Ok(Self::Groups { groups: count("groups", 1)?, size: count("size", 3)?, under: under("20ms")? })
            }
            None if table.contains_key("under") => Ok(Self::Apart { under: Some(under("")?) }),
            None => Ok(Self::Apart { under: None }),
        }
    }
}

impl Place {
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Integer(row) => {
                usize::try_from(*row).map(Self::Row).map_err(|_| format!("`at`: there is no row {row}"))
            }
            Value::String(city) => Ok(Self::City(city.clone())),
            _ => Err("`at`: a place is the number of a row or the name of a city".into()),
        }
    }
}

/// Rows given out so far.
pub(super) struct Placement<'m> {
    matrix: &'m Matrix,
    rows: Vec<Option<usize>>,
    random: StdRng,
}

impl<'m> Placement<'m> {
    pub(super) fn new(matrix: &'m Matrix, seed: u64, hosts: usize) -> Self {
        Self { matrix, rows: vec![None; hosts], random: StdRng::seed_from_u64(seed) }
    }

    /// Places `hosts`; `find(name, member)` is the host that the member's `beside` means, or the name nobody has.
    pub(super) fn place(
        &mut self,
        at: &At,
        hosts: &[usize],
        find: impl Fn(&str, usize) -> Result<usize, String>,
    ) -> Result<(), String> {
        let chosen = match at {
            At::Written(places) => self.written(places, hosts.len())?,
            At::Groups { groups, size, under } => self.groups(*groups, *size, *under, hosts.len())?,
            At::Apart { under } => {
                let placed: Vec<usize> = self.rows.iter().flatten().copied().collect();
                let near = |row: usize, other: usize, under| self.matrix.rtt(row, other).is_some_and(|rtt| rtt < under);
                let fits = |row: &usize| under.is_none_or(|under| placed.iter().any(|other| near(*row, *other, under)));
                let mut free: Vec<usize> =
                    free(self.matrix, &self.rows, &mut self.random).into_iter().filter(fits).collect();
                if free.len() < hosts.len() {
                    return Err(format!(
                        "{} rows are left for {} hosts: the matrix is too small",
                        free.len(),
                        hosts.len()
                    ));
                }
                free.truncate(hosts.len());
                free
            }
            At::Beside(name) => {
                let row = |member| {
                    let host = find(name, member).map_err(|name| format!("no host `{name}`"))?;
                    self.rows[host].ok_or_else(|| format!("`{name}` is itself beside a later host"))
                };
                (0..hosts.len()).map(row).collect::<Result<_, _>>()?
            }
        };
        hosts.iter().zip(chosen).for_each(|(host, row)| self.rows[*host] = Some(row));
        Ok(())
    }

    /// The row of every host; all have been placed.
    pub(super) fn rows(self) -> Vec<usize> {
        self.rows.into_iter().flatten().collect()
    }

    fn written(&self, places: &[Place], hosts: usize) -> Result<Vec<usize>, String> {
        if places.len() != 1 && places.len() != hosts {
            return Err(format!("{} places for {hosts} hosts", places.len()));
        }
        let row = |place: &Place| match place {
            Place::Row(row) if *row < self.matrix.places() => Ok(*row),
            Place::Row(row) => {
                Err(format!("row {row} is beyond the matrix, which is too small: {} places", self.matrix.places()))
            }
            Place::City(city) => self.matrix.row_of(city).ok_or_else(|| format!("the matrix knows no city `{city}`")),
        };
        let rows = places.iter().map(row).collect::<Result<Vec<_>, _>>()?;
        Ok((0..hosts).map(|host| rows[host.min(rows.len() - 1)]).collect())
    }

    fn groups(&mut self, groups: usize, size: usize, under: Duration, hosts: usize) -> Result<Vec<usize>, String> {
        if groups * size > hosts {
            return Err(format!("{groups} groups of {size} need {} hosts, there are {hosts}", groups * size));
        }
        let free = free(self.matrix, &self.rows, &mut self.random);
        let near = |a: usize, b: usize| self.matrix.rtt(a, b).is_some_and(|rtt| rtt < under);
        let mut found: Vec<Vec<usize>> = Vec::new();
        for first in &free {
            if found.len() == groups {
                break;
            }
            let wanted = hosts / groups + usize::from(found.len() < hosts % groups);
            let mut group = vec![*first];
            for row in &free {
                let fits = !group.contains(row) && group.iter().all(|member| near(*member, *row));
                if group.len() < wanted && fits {
                    group.push(*row);
                }
            }
            let alone = group.iter().all(|row| found.iter().flatten().all(|other| row != other && !near(*row, *other)));
            if group.len() == wanted && alone {
                found.push(group);
            }
        }
        if found.len() < groups {
            let under = units::millis(under);
            return Err(format!(
                "only {} of {groups} groups under {under} ms found: the matrix is too small",
                found.len()
            ));
        }
        // Interleaved, so that the first hosts of the entry are of different groups.
        let longest = found.iter().map(Vec::len).max().unwrap_or(0);
        Ok((0..longest).flat_map(|at| found.iter().filter_map(move |group| group.get(at).copied())).collect())
    }
}

/// Rows without a host, in random order.
fn free(matrix: &Matrix, taken: &[Option<usize>], random: &mut StdRng) -> Vec<usize> {
    let mut free: Vec<usize> = (0..matrix.places()).filter(|row| !taken.contains(&Some(*row))).collect();
    free.shuffle(random);
    free
}
