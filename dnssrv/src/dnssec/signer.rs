//! Signatures over sets of records (RFC 4034 3), made when asked for and kept for a while: as many as the settings say, two
//! generations of half as many each, the younger taking up what of the older is asked for again. How many are made a second is
//! bounded, too, for datagrams (whose senders may be forged) and for connections each by themselves.

use std::{
    collections::HashMap,
    hash::{Hash as _, Hasher as _},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hickory_proto::{
    rr::{Name, RData, Record, RecordType, rdata::NULL},
    serialize::binary::{BinEncodable as _, BinEncoder},
};
use siphasher::sip128::{Hasher128 as _, SipHasher24};

use super::{
    key::{ALGORITHM, DNSKEY, ZoneKey},
    nsec::RRSIG,
};
use crate::{Config, Dnssec, ServeError, rdata::wire, zone::seconds};

/// Signs for one zone.
#[derive(Debug)]
pub(crate) struct Signer {
    key: ZoneKey,
    zone: Name,
    config: Dnssec,
    secret: [u8; 16],
    state: Mutex<State>,
}

/// No signature: too many were made this second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exhausted;

/// Who a signature is made for, and when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Occasion {
    /// By this server's clock.
    pub(crate) now: Instant,
    /// Seconds since 1970.
    pub(crate) wall: u32,
    /// Whether the client has shown where it is.
    pub(crate) connected: bool,
}

#[derive(Debug, Default)]
struct State {
    young: HashMap<u128, Kept>,
    old: HashMap<u128, Kept>,
    /// Of datagrams, of connections.
    budgets: [Budget; 2],
}

#[derive(Debug, Clone)]
struct Kept {
    data: Vec<u8>,
    /// Seconds since 1970 when it begins to be valid: before, it is made anew, the clock having been set back.
    from: u32,
    /// The same, from which on it is made anew.
    until: u32,
}

/// Signatures that may still be made.
#[derive(Debug, Default)]
struct Budget {
    left: f64,
    at: Option<Instant>,
}

impl Signer {
    /// Signs with a key for a zone. The secret keeps others from choosing sets of records that collide.
    pub(crate) fn new(key: ZoneKey, zone: Name, config: Dnssec, secret: [u8; 16]) -> Self {
        Self { key, zone: zone.to_lowercase(), config, secret, state: Mutex::default() }
    }

    /// What signs for a zone, if the settings name a key.
    pub(crate) fn configured(config: &Config, zone: &Name, secret: [u8; 16]) -> Result<Option<Self>, ServeError> {
        let Some(file) = &config.dnssec.key else { return Ok(None) };
        let wrong = |reason: String| ServeError::config("dnssec.key", format!("{}: {reason}", file.display()));
        let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
        let key = ZoneKey::from_pem(&text).map_err(|error| wrong(error.to_string()))?;
        Ok(Some(Self::new(key, zone.clone(), config.dnssec.clone(), secret)))
    }

    /// The zone's key as a record of it.
    pub(crate) fn dnskey(&self) -> Record {
        let data = RData::Unknown { code: RecordType::from(DNSKEY), rdata: NULL::with(self.key.data().to_vec()) };
        Record::from_rdata(self.zone.clone(), seconds(KEY_TTL), data)
    }

    /// The signature over a set: records of one name, type and TTL, at least one. `keep`: whether it may be asked for again.
    pub(crate) fn sign(&self, set: &[&Record], occasion: Occasion, keep: bool) -> Result<Record, Exhausted> {
        let first = set.first().ok_or(Exhausted)?;
        let owner = first.name.to_lowercase();
        let bodies = self.bodies(set);
        let id = self.id(&owner, first, &bodies);
        let mut state = self.state();
        let is_good = |kept: &Kept| (kept.from..kept.until).contains(&occasion.wall);
        if let Some(kept) = state.find(id, self.config.signatures / 2).filter(is_good) {
            return Ok(signature(first, kept.data));
        }
        let rate = f64::from(self.config.per_second);
        let [datagrams, connections] = &mut state.budgets;
        if !if occasion.connected { connections } else { datagrams }.take(occasion.now, rate) {
            return Err(Exhausted);
        }
        // Others must not wait for the arithmetic.
        drop(state);
        let data = self.make(&owner, first, &bodies, occasion.wall).ok_or(Exhausted)?;
        metrics::counter!("atoll_dns_signatures_total").increment(1);
        if keep {
            let fresh = u32::try_from(self.config.validity.as_secs() / 4).unwrap_or(u32::MAX);
            let (from, until) = (begins(occasion.wall), occasion.wall.saturating_add(fresh));
            let kept = Kept { data: data.clone(), from, until };
            self.state().keep(id, kept, self.config.signatures / 2);
        }
        Ok(signature(first, data))
    }

    fn make(&self, owner: &Name, first: &Record, bodies: &[Vec<u8>], wall: u32) -> Option<Vec<u8>> {
        let validity = u32::try_from(self.config.validity.as_secs()).unwrap_or(u32::MAX);
        let inception = begins(wall);
        let kind = u16::from(first.record_type()).to_be_bytes();
        // The "*" of a wildcard's own name is not counted (RFC 4034 3.1.3).
        let wild = owner.iter().next() == Some(b"*");
        let labels = owner.iter().count() - usize::from(wild);
        let mut data = kind.to_vec();
        data.extend([ALGORITHM, u8::try_from(labels).ok()?]);
        data.extend(first.ttl.to_be_bytes());
        data.extend(inception.saturating_add(validity).to_be_bytes());
        data.extend(inception.to_be_bytes());
        data.extend(self.key.tag().to_be_bytes());
        data.extend(wire(&self.zone));
        let mut message = data.clone();
        let owner = wire(owner);
        for body in bodies {
            message.extend(&owner);
            message.extend(kind);
            message.extend([0, 1]);
            message.extend(first.ttl.to_be_bytes());
            message.extend(u16::try_from(body.len()).ok()?.to_be_bytes());
            message.extend(body);
        }
        data.extend(self.key.sign(&message)?);
        Some(data)
    }

    /// The records' data in canonical form and order (RFC 4034 6.2, 6.3).
    fn bodies(&self, set: &[&Record]) -> Vec<Vec<u8>> {
        let mut bodies: Vec<Vec<u8>> = set.iter().map(|record| canonical(&record.data)).collect();
        bodies.sort_unstable();
        bodies.dedup();
        bodies
    }

    fn id(&self, owner: &Name, first: &Record, bodies: &[Vec<u8>]) -> u128 {
        let mut hash = SipHasher24::new_with_key(&self.secret);
        for label in owner.iter() {
            label.hash(&mut hash);
        }
        hash.write_u16(u16::from(first.record_type()));
        hash.write_u32(first.ttl);
        bodies.hash(&mut hash);
        hash.finish128().as_u128()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn find(&mut self, id: u128, most: usize) -> Option<Kept> {
        if let Some(kept) = self.young.get(&id) {
            return Some(kept.clone());
        }
        let kept = self.old.get(&id)?.clone();
        if self.young.len() < most {
            self.old.remove(&id);
            self.young.insert(id, kept.clone());
        }
        Some(kept)
    }

    fn keep(&mut self, id: u128, kept: Kept, most: usize) {
        if self.young.len() >= most.max(1) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(id, kept);
    }
}

impl Budget {
    /// Takes one of so many a second; as many may be made at once.
    fn take(&mut self, now: Instant, rate: f64) -> bool {
        let since = self.at.map_or(1.0, |at| now.saturating_duration_since(at).as_secs_f64());
        self.left = (self.left + since * rate).min(rate);
        self.at = Some(now);
        let may = self.left >= 1.0;
        self.left -= if may { 1.0 } else { 0.0 };
        may
    }
}

fn signature(first: &Record, data: Vec<u8>) -> Record {
    let data = RData::Unknown { code: RecordType::from(RRSIG), rdata: NULL::with(data) };
    Record::from_rdata(first.name.clone(), first.ttl, data)
}

/// A record's data with the names that RFC 4034 6.2 lists in lower case, none compressed.
fn canonical(data: &RData) -> Vec<u8> {
    if let Some(target) = crate::rdata::renamed_to(data).filter(|_| data.record_type() == RecordType::DNAME) {
        return wire(&target.to_lowercase());
    }
    let mut bytes = Vec::new();
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_canonical_form(true);
    // Data that was read or made here can be written; what could not would never be sent either.
    let _ = data.emit(&mut encoder);
    bytes
}

/// When a signature made now begins to be valid.
fn begins(wall: u32) -> u32 {
    wall.saturating_sub(seconds(BACKDATED))
}

/// How far back signatures begin, for resolvers whose clocks are slow. \[guess\]
const BACKDATED: Duration = Duration::from_secs(3600);
/// How long the key may be kept. \[guess\]
const KEY_TTL: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::MX;
    use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    use super::*;

    fn signer(per_second: u32, signatures: usize) -> Signer {
        let key = ZoneKey::from_pem(&ZoneKey::generate().unwrap()).unwrap();
        let config = Dnssec { per_second, signatures, ..Dnssec::default() };
        Signer::new(key, name("Nyud.Example."), config, [7; 16])
    }

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn record(owner: &str, host: &str) -> Record {
        Record::from_rdata(name(owner), 300, RData::MX(MX::new(10, name(host))))
    }

    fn at(wall: u32) -> Occasion {
        Occasion { now: Instant::now(), wall, connected: false }
    }

    fn data(signature: &Record) -> Vec<u8> {
        let RData::Unknown { rdata, .. } = &signature.data else { panic!("{signature}") };
        rdata.anything.clone()
    }

    #[test]
    fn what_is_signed_is_the_set_in_canonical_form_and_order() {
        let signer = signer(10, 10);
        let (b, a) = (record("WWW.nyud.example.", "B.Example."), record("www.nyud.example.", "a.example."));
        let signed = data(&signer.sign(&[&b, &a], at(1_000_000), true).unwrap());
        let (head, signature) = signed.split_at(signed.len() - 64);
        // MX, algorithm 13, three labels, the TTL, from an hour ago for four days.
        let (end, begin) = (1_000_000 - 3_600 + 4 * 86_400_u32, 1_000_000 - 3_600_u32);
        let mut message = [&[0, 15, 13, 3, 0, 0, 1, 44][..], &end.to_be_bytes(), &begin.to_be_bytes()].concat();
        message.extend(signer.key.tag().to_be_bytes());
        message.extend(b"\x04nyud\x07example\0");
        assert_eq!(head, message);
        for host in [&b"\x01a\x07example\0"[..], b"\x01b\x07example\0"] {
            message.extend(b"\x03www\x04nyud\x07example\0\0\x0f\0\x01\0\0\x01\x2c\0\x0d\0\x0a");
            message.extend(host);
        }
        let point = [&[4], &signer.key.data()[4..]].concat();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(&message, signature).unwrap();
    }

    #[test]
    fn a_signature_is_kept_for_a_quarter_of_its_time_and_a_wildcards_own_name_counts_one_label_less() {
        let signer = signer(10, 10);
        let set = record("*.nyud.example.", "a.example.");
        let first = data(&signer.sign(&[&set], at(1_000_000), true).unwrap());
        assert_eq!(first[3], 2);
        let quarter = 86_400;
        assert_eq!(data(&signer.sign(&[&set], at(1_000_000 + quarter - 1), true).unwrap()), first);
        assert_ne!(data(&signer.sign(&[&set], at(1_000_000 + quarter), true).unwrap()), first);
    }

    #[test]
    fn d12_after_the_clock_was_set_back_no_signature_begins_in_the_future() {
        let signer = signer(10, 10);
        let set = record("www.nyud.example.", "a.example.");
        let begin = |wall| {
            let data = data(&signer.sign(&[&set], at(wall), true).unwrap());
            u32::from_be_bytes(data[12..16].try_into().unwrap())
        };
        let ahead = 1_000_000;
        assert_eq!(begin(ahead), ahead - 3_600);
        assert_eq!(begin(ahead - 3_600), ahead - 3_600, "an hour back it is just valid");
        assert_eq!(begin(ahead - 3_601), ahead - 7_201);
        assert_eq!(begin(ahead - 3_500), ahead - 7_201, "and the later one is forgotten");
    }

    #[test]
    fn no_more_are_made_a_second_or_kept_than_may_be_and_connections_have_their_own() {
        let signer = signer(20, 8);
        let occasion = at(1_000_000);
        let sets: Vec<Record> = (0..30).map(|n| record(&format!("n{n}.nyud.example."), "a.example.")).collect();
        let made = |occasion| sets.iter().filter(|set| signer.sign(&[set], occasion, true).is_ok()).count();
        assert_eq!(made(occasion), 20);
        assert!(signer.sign(&[&sets[29]], Occasion { connected: true, ..occasion }, true).is_ok());
        assert!(signer.sign(&[&sets[29]], occasion, true).is_ok(), "kept ones cost nothing");
        assert!(
            signer.sign(&[&sets[0]], Occasion { now: occasion.now + Duration::from_secs(1), ..occasion }, true).is_ok()
        );
        let state = signer.state();
        assert!(state.young.len() + state.old.len() <= 8, "{} and {}", state.young.len(), state.old.len());
    }
}
