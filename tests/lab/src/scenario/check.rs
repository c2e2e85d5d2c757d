//! From the keys of a scenario file to a [`Scenario`], or to one line that names file, line and key.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use toml::Spanned;

use super::{
    Authority, Host, OriginFile, Recursor, Role, Scale, Scenario,
    file::{Count, File, FileKeys, HostKeys, RoleName, WeatherKeys},
    placement::{At, Placement},
};
use crate::{address::HostId, checks, error::Error, matrix::Matrix, router::Weather, units::Size};

/// One file under examination.
pub(super) struct Check<'a> {
    text: &'a str,
    path: &'a Path,
    scale: Scale,
}

impl<'a> Check<'a> {
    pub(super) fn new(text: &'a str, path: &'a Path, scale: Scale) -> Self {
        Self { text, path, scale }
    }

    pub(super) fn scenario(&self, matrix: Option<&Path>) -> Result<Scenario, Error> {
        let file: File = toml::from_str(self.text)
            .map_err(|error| self.error(&error.span().unwrap_or(0..0), error.message().replace('\n', "; ")))?;
        let mut names = Vec::new();
        self.name(&file.name, 24)?;
        let claims = self.claims(file.claims.as_ref())?;
        for keys in &file.host {
            self.expand(keys, &mut names)?;
        }
        if names.is_empty() {
            return Err(self.error(&(0..0), "`host`: a scenario needs at least one [[host]]".into()));
        }
        if names.len() > HostId::MOST {
            return Err(self.error(&(0..0), format!("`host`: {} hosts, at most {} fit", names.len(), HostId::MOST)));
        }
        let matrix = self.matrix(&file, matrix)?;
        let rows = self.place(&file, &names, &matrix)?;
        let mut hosts = Vec::with_capacity(names.len());
        for (index, (name, entry, number)) in names.iter().enumerate() {
            let id = HostId::new(index).ok_or_else(|| self.error(&(0..0), "`host`: too many".into()))?;
            let keys = file.host[*entry].get_ref();
            hosts.push(Host {
                name: name.clone(),
                id,
                row: rows[index],
                place: matrix.name_of(rows[index]),
                up: keys.up,
                down: keys.down,
                queue: keys.queue,
                resolver: self.resolver(keys, *number, &names, &file.host)?,
                role: self.role(keys, *number)?,
            });
        }
        let one_way = self.distances(&file, &names, &rows, &matrix)?;
        let weather = self.weather(&file.weather)?;
        let zone = file.zone.trim_end_matches('.').to_ascii_lowercase();
        let (name, seed, dns_mode) = (file.name.into_inner(), file.seed, file.dns_mode);
        Ok(Scenario { name, claims, zone, seed, dns_mode, scale: self.scale, weather, hosts, one_way })
    }

    fn claims(&self, claims: Option<&Spanned<String>>) -> Result<Option<String>, Error> {
        let Some(claims) = claims else { return Ok(None) };
        let (text, known) = (claims.get_ref(), checks::scenario_names());
        if known.contains(&text.as_str()) {
            return Ok(Some(text.clone()));
        }
        Err(self.error(&claims.span(), format!("`claims`: `{text}` is none of {}", known.join(", "))))
    }

    fn error(&self, span: &Range<usize>, message: String) -> Error {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        Error::Scenario { file: self.path.into(), line: before.matches('\n').count() + 1, message }
    }

    fn name(&self, name: &Spanned<String>, longest: usize) -> Result<(), Error> {
        let text = name.get_ref();
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if text.is_empty() || text.len() > longest || text.starts_with('-') || !text.chars().all(good) {
            let message = format!("`name`: `{text}` is not 1 to {longest} of a-z, 0-9 and -");
            return Err(self.error(&name.span(), message));
        }
        Ok(())
    }

    /// Adds the names of one `[[host]]` with the entry's index and the number within it.
    fn expand(&self, keys: &Spanned<HostKeys>, names: &mut Vec<(String, usize, Option<usize>)>) -> Result<(), Error> {
        let entry = names.last().map_or(0, |(_, entry, _)| entry + 1);
        let keys = keys.get_ref();
        self.name(&keys.name, 24)?;
        let base = keys.name.get_ref();
        let count = keys.count.as_ref().map(|count| match (*count.get_ref(), self.scale) {
            (Count::Same(count), _) => count,
            (Count::ByScale { short, .. }, Scale::Short) => short,
            (Count::ByScale { long, .. }, Scale::Long) => long,
        });
        let expanded: Vec<_> = match count {
            None => vec![(base.clone(), entry, None)],
            Some(0) => {
                let span = keys.count.as_ref().map_or(0..0, Spanned::span);
                return Err(self.error(&span, "`count`: must be 1 or more".into()));
            }
            Some(count) => (1..=usize::from(count)).map(|n| (format!("{base}{n}"), entry, Some(n))).collect(),
        };
        for host in expanded {
            if names.iter().any(|(name, ..)| *name == host.0) {
                return Err(self.error(&keys.name.span(), format!("`name`: a host `{}` exists already", host.0)));
            }
            names.push(host);
        }
        Ok(())
    }

    fn matrix(&self, file: &File, given: Option<&Path>) -> Result<Matrix, Error> {
        let path = match (given, &file.matrix) {
            (Some(given), _) => given.to_path_buf(),
            (None, Some(named)) => self.path.parent().unwrap_or_else(|| Path::new("")).join(named.get_ref()),
            (None, None) => default_matrix(),
        };
        let failed = |message| Error::File { file: path.clone(), message };
        let bytes = std::fs::read(&path).map_err(|error| failed(format!("cannot be read: {error}")))?;
        Matrix::read(&bytes).map_err(failed)
    }

    fn place(
        &self,
        file: &File,
        names: &[(String, usize, Option<usize>)],
        matrix: &Matrix,
    ) -> Result<Vec<usize>, Error> {
        let mut placement = Placement::new(matrix, file.seed, names.len());
        let mut members: Vec<(At, &HostKeys, Vec<usize>)> = Vec::new();
        for (entry, keys) in file.host.iter().enumerate() {
            let keys = keys.get_ref();
            let at = At::read(keys.at.get_ref()).map_err(|message| self.error(&keys.at.span(), message))?;
            let hosts = (0..names.len()).filter(|index| names[*index].1 == entry).collect();
            members.push((at, keys, hosts));
        }
        members.sort_by_key(|(at, ..)| at.order());
        for (at, keys, hosts) in &members {
            let place = |name: &str, number| {
                let wanted = paired(name, number);
                names.iter().position(|(name, ..)| *name == wanted).ok_or(wanted)
            };
            let numbers: Vec<_> = hosts.iter().map(|index| names[*index].2).collect();
            placement.place(at, hosts, |name, member| place(name, numbers[member])).map_err(|message| {
                self.error(&keys.at.span(), format!("`at` of `{}`: {message}", keys.name.get_ref()))
            })?;
        }
        Ok(placement.rows())
    }

    fn resolver(
        &self,
        keys: &HostKeys,
        number: Option<usize>,
        names: &[(String, usize, Option<usize>)],
        entries: &[Spanned<HostKeys>],
    ) -> Result<Option<HostId>, Error> {
        let Some(resolver) = &keys.resolver else { return Ok(None) };
        let wanted = paired(resolver.get_ref(), number);
        let found = names.iter().position(|(name, ..)| *name == wanted);
        match found.filter(|at| *entries[names[*at].1].get_ref().role.get_ref() == RoleName::Resolver) {
            Some(at) => Ok(HostId::new(at)),
            None => {
                Err(self.error(&resolver.span(), format!("`resolver`: no host `{wanted}` with role = \"resolver\"")))
            }
        }
    }

    fn role(&self, keys: &HostKeys, number: Option<usize>) -> Result<Role, Error> {
        self.refuse_strangers(keys)?;
        let role = *keys.role.get_ref();
        Ok(match role {
            RoleName::Root => Role::Root(self.authority(keys)?),
            RoleName::Tld => Role::Tld(self.authority(keys)?, self.needed(keys, "tlds", keys.tlds.as_ref())?.clone()),
            RoleName::Nameserver => {
                let zone = self.needed(keys, "zone", keys.zone.as_ref())?.clone();
                let records = keys.records.as_ref().map(|records| records.get_ref().clone()).unwrap_or_default();
                Role::Nameserver(self.authority(keys)?, zone, records)
            }
            RoleName::Resolver => self.recursor(keys)?,
            RoleName::Origin => {
                let names = self.needed(keys, "names", keys.names.as_ref())?.clone();
                Role::Origin { names, files: self.files(keys.files.as_ref())? }
            }
            RoleName::Node => {
                let parent = self.path.parent().unwrap_or_else(|| Path::new(""));
                let template = keys.template.as_ref().map(|template| parent.join(template.get_ref()));
                let (dns, number) = (told(keys.dns.as_ref()), number.unwrap_or(1));
                let among =
                    |most: &Option<Spanned<usize>>, default| number <= most.as_ref().map_or(default, |n| *n.get_ref());
                Role::Node { dns, apex: dns && among(&keys.apex, MOST_APEX), seed: among(&keys.seeds, 1), template }
            }
            RoleName::Client => Role::Client { browser: self.is_browser(keys)? },
            RoleName::Plain => Role::Plain,
        })
    }

    /// A key that this role does not know is as wrong as an unknown one.
    fn refuse_strangers(&self, keys: &HostKeys) -> Result<(), Error> {
        use RoleName::{Client, Nameserver, Node, Origin, Resolver, Root, Tld};
        let role = *keys.role.get_ref();
        let given: [Given<'_>; 11] = [
            ("program", keys.program.as_ref().map(Spanned::span), &[Root, Tld, Nameserver, Resolver, Client]),
            ("tlds", keys.tlds.as_ref().map(Spanned::span), &[Tld]),
            ("zone", keys.zone.as_ref().map(Spanned::span), &[Nameserver]),
            ("records", keys.records.as_ref().map(Spanned::span), &[Nameserver]),
            ("ecs", keys.ecs.as_ref().map(Spanned::span), &[Resolver]),
            ("names", keys.names.as_ref().map(Spanned::span), &[Origin]),
            ("files", keys.files.as_ref().map(Spanned::span), &[Origin]),
            ("template", keys.template.as_ref().map(Spanned::span), &[Node]),
            ("dns", keys.dns.as_ref().map(Spanned::span), &[Node]),
            ("apex", keys.apex.as_ref().map(Spanned::span), &[Node]),
            ("seeds", keys.seeds.as_ref().map(Spanned::span), &[Node]),
        ];
        for (key, span, roles) in given {
            if let Some(span) = span.filter(|_| !roles.contains(&role)) {
                return Err(self.error(&span, format!("`{key}`: unknown for role = \"{role:?}\"").to_lowercase()));
            }
        }
        Ok(())
    }

    fn needed<'k, T>(&self, keys: &HostKeys, key: &str, value: Option<&'k Spanned<T>>) -> Result<&'k T, Error> {
        value.map(Spanned::get_ref).ok_or_else(|| {
            let role = format!("{:?}", keys.role.get_ref()).to_lowercase();
            self.error(&keys.role.span(), format!("`{key}`: missing, role = \"{role}\" needs it"))
        })
    }

    fn authority(&self, keys: &HostKeys) -> Result<Authority, Error> {
        match &keys.program {
            None => Ok(Authority::Nsd),
            Some(program) => match program.get_ref().as_str() {
                "nsd" => Ok(Authority::Nsd),
                "knot" => Ok(Authority::Knot),
                other => Err(self.error(&program.span(), format!("`program`: `{other}` is neither nsd nor knot"))),
            },
        }
    }

    fn is_browser(&self, keys: &HostKeys) -> Result<bool, Error> {
        match &keys.program {
            None => Ok(false),
            Some(program) if program.get_ref() == "chromium" => Ok(true),
            Some(program) => {
                let message = format!("`program`: `{}` is no browser; chromium is", program.get_ref());
                Err(self.error(&program.span(), message))
            }
        }
    }

    fn recursor(&self, keys: &HostKeys) -> Result<Role, Error> {
        let name = self.needed(keys, "program", keys.program.as_ref())?;
        let span = keys.program.as_ref().map_or(0..0, Spanned::span);
        let program = Recursor::ALL.into_iter().find(|program| program.name() == name).ok_or_else(|| {
            let known = Recursor::ALL.map(Recursor::name).join(", ");
            self.error(&span, format!("`program`: `{name}` is none of {known}"))
        })?;
        let ecs = told(keys.ecs.as_ref());
        if ecs && !program.can_send_ecs() {
            return Err(self.error(&span, format!("`ecs`: {name} cannot send it; unbound and pdns-recursor can")));
        }
        Ok(Role::Resolver { program, ecs })
    }

    fn files(&self, keys: Option<&Spanned<Vec<FileKeys>>>) -> Result<Vec<OriginFile>, Error> {
        let Some(keys) = keys else { return Ok(Vec::new()) };
        let mut files: Vec<OriginFile> = Vec::new();
        for file in keys.get_ref() {
            let good = |c: char| c.is_ascii_alphanumeric() || "/-_.{}".contains(c);
            let sound = file.path.starts_with('/') && !file.path.contains("..") && file.path.chars().all(good);
            if !sound || file.path.ends_with('/') || file.size > MOST_FILE {
                let message = format!("`files`: `{}` is not an absolute path of at most 1 GiB", file.path);
                return Err(self.error(&keys.span(), message));
            }
            for number in 1..=file.count {
                let path = file.path.replace("{n}", &number.to_string());
                if files.iter().any(|known| known.path == path) {
                    return Err(self.error(&keys.span(), format!("`files`: `{path}` exists already (use {{n}})")));
                }
                files.push(OriginFile { path, size: file.size });
            }
        }
        Ok(files)
    }

    fn distances(
        &self,
        file: &File,
        names: &[(String, usize, Option<usize>)],
        rows: &[usize],
        matrix: &Matrix,
    ) -> Result<Vec<Duration>, Error> {
        let access = |index: usize| file.host[names[index].1].get_ref().access.0;
        let mut one_way = vec![Duration::ZERO; rows.len() * rows.len()];
        for from in 0..rows.len() {
            for to in (0..rows.len()).filter(|to| *to != from) {
                let rtt = matrix.rtt(rows[from], rows[to]).ok_or_else(|| {
                    let span = file.host[names[to].1].get_ref().at.span();
                    let (here, there) = (&names[from].0, &names[to].0);
                    self.error(&span, format!("`at`: the matrix does not know the RTT between `{here}` and `{there}`"))
                })?;
                one_way[from * rows.len() + to] = (rtt + access(from) + access(to)) / 2;
            }
        }
        for link in &file.link {
            let find = |name: &Spanned<String>, key: &str| {
                let found = names.iter().position(|(known, ..)| known == name.get_ref());
                found.ok_or_else(|| self.error(&name.span(), format!("`{key}`: no host `{}`", name.get_ref())))
            };
            one_way[find(&link.from, "from")? * rows.len() + find(&link.to, "to")?] = link.delay.0;
        }
        Ok(one_way)
    }

    fn weather(&self, keys: &WeatherKeys) -> Result<Weather, Error> {
        let share = |key: &str, value: &Option<Spanned<f64>>| match value {
            None => Ok(0.0),
            Some(value) if (0.0..=1.0).contains(value.get_ref()) => Ok(*value.get_ref()),
            Some(value) => Err(self.error(&value.span(), format!("`{key}`: must be from 0.0 to 1.0"))),
        };
        Ok(Weather {
            jitter: keys.jitter.0,
            loss: share("loss", &keys.loss)?,
            reorder: share("reorder", &keys.reorder)?,
            reorder_by: keys.reorder_by.map_or(Duration::from_millis(5), |by| by.0),
            most_under_way: 0,
        })
    }
}

impl Recursor {
    /// All four.
    pub const ALL: [Self; 4] = [Self::Unbound, Self::Bind9, Self::KnotResolver, Self::PdnsRecursor];

    /// As a scenario names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unbound => "unbound",
            Self::Bind9 => "bind9",
            Self::KnotResolver => "knot-resolver",
            Self::PdnsRecursor => "pdns-recursor",
        }
    }

    /// Whether its free edition sends EDNS Client Subnet.
    pub fn can_send_ecs(self) -> bool {
        matches!(self, Self::Unbound | Self::PdnsRecursor)
    }
}

/// The project's own matrix, from the working directory or from where this crate was built.
fn default_matrix() -> PathBuf {
    let here = Path::new("data/latency/planetlab490.tri16");
    if here.exists() { here.into() } else { Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(here) }
}

/// `NAME*` with a number is NAME and the number.
fn paired(name: &str, number: Option<usize>) -> String {
    match (name.strip_suffix('*'), number) {
        (Some(base), Some(number)) => format!("{base}{number}"),
        _ => name.to_owned(),
    }
}

fn told(value: Option<&Spanned<bool>>) -> bool {
    value.is_some_and(|value| *value.get_ref())
}

/// A key, where it is if it is there, and the roles that know it.
type Given<'a> = (&'a str, Option<Range<usize>>, &'a [RoleName]);

/// As many name servers as a referral holds in one datagram [RFC 1035 2.3.4].
const MOST_APEX: usize = 13;
const MOST_FILE: Size = Size(1 << 30);
