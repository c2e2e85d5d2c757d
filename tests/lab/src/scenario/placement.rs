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
    /// Rows where no other host is.
    Apart,
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
            Self::Apart => 2,
            Self::Beside(_) => 3,
        }
    }

    fn read_table(table: &toml::Table) -> Result<Self, String> {
        let known: &[&str] = match table.get("draw").and_then(Value::as_str) {
            None if table.contains_key("beside") => &["beside"],
            Some("groups") => &["draw", "groups", "size", "under"],
            Some("apart") => &["draw"],
            _ => return Err("`at`: a table is { beside = \"HOST\" }, { draw = \"groups\", groups, size, under } or { draw = \"apart\" }".into()),
        };
        if let Some(unknown) = table.keys().find(|key| !known.contains(&key.as_str())) {
            return Err(format!("`at.{unknown}`: unknown, expected {}", known.join(", ")));
        }
        let count = |key: &str, default: i64| {
            let value = table.get(key).map_or(Some(default), Value::as_integer).and_then(|n| usize::try_from(n).ok());
            value.filter(|count| *count >= 1).ok_or_else(|| format!("`at.{key}`: must be a number of 1 or more"))
        };
        match (table.get("beside"), known.len()) {
            (Some(Value::String(host)), _) => Ok(Self::Beside(host.clone())),
            (Some(_), _) => Err("`at.beside`: must be the name of a host".into()),
            (None, 1) => Ok(Self::Apart),
            (None, _) => {
                let under = table.get("under").map_or(Some("20ms"), Value::as_str).unwrap_or_default();
                let under = units::duration(under).map_err(|error| format!("`at.under`: {error}"))?;
                Ok(Self::Groups { groups: count("groups", 1)?, size: count("size", 3)?, under })
            }
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
            At::Apart => {
                let mut free = self.free();
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

    /// Rows without a host, in random order.
    fn free(&mut self) -> Vec<usize> {
        let mut free: Vec<usize> = (0..self.matrix.places()).filter(|row| !self.rows.contains(&Some(*row))).collect();
        free.shuffle(&mut self.random);
        free
    }

    fn groups(&mut self, groups: usize, size: usize, under: Duration, hosts: usize) -> Result<Vec<usize>, String> {
        if groups * size > hosts {
            return Err(format!("{groups} groups of {size} need {} hosts, there are {hosts}", groups * size));
        }
        let free = self.free();
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
