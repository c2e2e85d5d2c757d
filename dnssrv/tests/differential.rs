//! One zone of plain records on this server, NSD, Knot and BIND: 2,000 generated questions, every answer equal in code, flags and
//! sections, but for the differences that stand here with their reason.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use hickory_proto::{
    op::Message,
    rr::{Record, RecordType},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

use atoll_dnssrv::{Config, Mode};

use crate::{
    real::{Kind, Real, ask, ask_tcp},
    support::*,
};

const ZONE: &str = "nyud.example";

pub(crate) const TEXT: &str = r#"
$ORIGIN nyud.example.
$TTL 3600
@          SOA  ns1 hostmaster 1 14400 3600 1209600 300
@          NS   ns1
@          NS   ns2
@          A    192.0.2.1
@          MX   10 mail
@          MX   20 mail.example.org.
@          TXT  "v=spf1 -all" "second"
@          CAA  0 issue "ca.example.org"
ns1        A    192.0.2.53
ns1        AAAA 2001:db8::53
ns2        A    192.0.2.54
mail   600 A    192.0.2.25
www        A    192.0.2.80
www        A    192.0.2.81
www        AAAA 2001:db8::80
alias      CNAME www
alias2     CNAME alias
out        CNAME www.example.org.
dangling   CNAME nobody.www
toempty    CNAME ent
loop1      CNAME loop2
loop2      CNAME loop1
self       CNAME self
*.wild     A    192.0.2.90
*.wild     TXT  "wild"
*.wild     MX   10 mail
deep.wild  A    192.0.2.91
x.y.deep.wild A 192.0.2.92
*.walias   CNAME www
*.wdangle  CNAME nobody.www
*.wself    CNAME a.wself
sub.*.star A    192.0.2.93
a.b.c.d.e  A    192.0.2.94
host.ent   A    192.0.2.95
sub        NS   ns.sub
sub        NS   ns.elsewhere.example.
ns.sub     A    192.0.2.60
ns.sub     AAAA 2001:db8::60
www.sub    A    192.0.2.61
secure     NS   ns1
secure     DS   12345 13 2 aabbccddeeff00112233445566778899aabbccddeeff00112233445566778899
other      NS   ns.sub
tosub      CNAME www.sub
tocut      CNAME sub
toapex     CNAME @
*.wtosub   CNAME www.sub
tree       DNAME realtree
realtree   A    192.0.2.70
a.realtree A    192.0.2.71
b.realtree CNAME a.realtree
*.w.realtree TXT "below a renaming"
treeout    DNAME example.org.
treein     DNAME tree
treesub    DNAME sub
grow       DNAME grow.grow
toalias    CNAME a.tree
tolong     DNAME a-label-of-some-length.another-label-of-some-length.and-one-more-for-good-measure.realtree
_sip._tcp  SRV  1 2 5060 www
_no._tcp   SRV  1 2 5060 nobody
odd        TYPE65280 \# 4 0a000001
mx2        MX   5 alias
mx2        MX   6 ns.sub
ptr        PTR  www
post       MX   1 mail-1.of-some-length-so-that-not-all-fits
post       MX   2 mail-2.of-some-length-so-that-not-all-fits
post       MX   3 mail-3.of-some-length-so-that-not-all-fits
post       MX   4 mail-4.of-some-length-so-that-not-all-fits
post       MX   5 mail-5.of-some-length-so-that-not-all-fits
post       MX   6 mail-6.of-some-length-so-that-not-all-fits
mail-1.of-some-length-so-that-not-all-fits AAAA 2001:db8::1
mail-2.of-some-length-so-that-not-all-fits AAAA 2001:db8::2
mail-3.of-some-length-so-that-not-all-fits AAAA 2001:db8::3
mail-4.of-some-length-so-that-not-all-fits AAAA 2001:db8::4
mail-5.of-some-length-so-that-not-all-fits AAAA 2001:db8::5
mail-6.of-some-length-so-that-not-all-fits AAAA 2001:db8::6
mail-6.of-some-length-so-that-not-all-fits A    192.0.2.36
big        TXT  "a text that fits into no datagram of the least size beside its siblings, since it is two hundred bytes and more in length, which is only so because words were put into it to no other end than to make it so long"
big        TXT  "another text that fits into no datagram of the least size beside its siblings, since it is two hundred bytes and more in length, which is only so because words were put into it to no other end than to make it long"
big        TXT  "a third text that fits into no datagram of the least size beside its siblings, since it is two hundred bytes and more in length, which is only so because words were put into it to no other end than to make it long"
svc        TYPE64 \# 3 000100
web        HTTPS 1 . alpn=h2 port=8443
web        HTTPS 2 www alpn=h2
web        A    192.0.2.99
svcalias   SVCB 0 www
"#;

/// A difference that is known: which question it is, which server stands against us, and why ours is right.
struct Known {
    reason: &'static str,
    against: &'static [Kind],
    when: fn(&Case, &Seen, &Seen) -> bool,
}

const KNOWN: &[Known] = &[
    Known {
        reason: "NSD, told to be minimal, leaves out the addresses of the hosts of MX, SRV, HTTPS and SVCB; RFC 1035 3.3.9 and RFC 9460 4.1 \
                 ask for them, Knot has them",
        against: &[Kind::Nsd],
        when: |case, ours, theirs| {
            let minimal = Seen { additional: Vec::new(), ..ours.clone() };
            [15, 33, 64, 65].contains(&case.kind) && !ours.additional.is_empty() && minimal == *theirs
        },
    },
    Known {
        reason: "what is answered to ANY is each server's choice (RFC 8482 4): one record that says so, one set, or all; and whether an alias \
                 is followed for it",
        against: &[Kind::Nsd, Kind::Knot, Kind::Bind],
        when: |case, ours, theirs| {
            let same = ours.edns == theirs.edns && ours.question == theirs.question;
            case.kind == 255 && same && ours.code == 0 && !ours.answers.is_empty() && !theirs.answers.is_empty()
        },
    },
    Known {
        reason: "NSD repeats CD in BADVERS, and only there; RFC 4035 3.1.6 has an authority clear it, Knot does",
        against: &[Kind::Nsd],
        when: |_, ours, theirs| {
            let repeated = Seen { flags: format!("{}CD", ours.flags), ..ours.clone() };
            ours.code == 16 && repeated == *theirs
        },
    },
    Known {
        reason: "Knot says NXDOMAIN for YXDOMAIN if the type is DS, and for some of the longest names; RFC 6672 2.2 knows no such \
                 exception, NSD and BIND make none",
        against: &[Kind::Knot],
        when: |case, ours, theirs| {
            let excepted = case.kind == 43 || case.name.len() > 160;
            excepted && ours.code == YXDOMAIN && theirs.code == 3 && ours.answers == theirs.answers
        },
    },
    Known {
        reason: "BIND, told to be minimal, gives only those addresses of hosts that nobody could find otherwise; more spares the \
                 resolver a question, NSD and Knot have those of name servers, Knot all",
        against: &[Kind::Bind],
        when: |_, ours, theirs| {
            let fewer = theirs.additional.iter().all(|record| ours.additional.contains(record));
            let mut records = ours.authority.iter().chain(&ours.answers);
            let hosts =
                records.any(|record| [" in ns ", " in mx ", " in srv "].iter().any(|kind| record.contains(kind)));
            hosts && fewer && Seen { additional: theirs.additional.clone(), ..ours.clone() } == *theirs
        },
    },
    Known {
        reason: "BIND adds the addresses of an HTTPS record's own name where its target is \".\"; whoever asked for it asks for those, too, \
                 NSD and Knot leave them out",
        against: &[Kind::Bind],
        when: |case, ours, theirs| {
            let more = ours.additional.iter().all(|record| theirs.additional.contains(record));
            case.kind == 65 && more && Seen { additional: theirs.additional.clone(), ..ours.clone() } == *theirs
        },
    },
    Known {
        reason: "BIND calls a loop of aliases SERVFAIL and follows a renaming of its own outcome to the end; what there is of it is the \
                 answer (RFC 1034 3.6.2), NSD and Knot say so",
        against: &[Kind::Bind],
        when: |_, ours, theirs| {
            let all = ours.answers.iter().all(|record| theirs.answers.contains(record));
            // The end may be a name that is too long.
            [2, YXDOMAIN].contains(&theirs.code) && ours.code != 2 && !ours.answers.is_empty() && all
        },
    },
    Known {
        reason: "BIND refuses to be asked for TSIG as malformed; no record has that type, and NSD and Knot say so (RFC 8906 3.1.4)",
        against: &[Kind::Bind],
        when: |case, _, theirs| case.kind == 250 && theirs.code == 1,
    },
    Known {
        reason: "Knot follows a renaming that renames its own outcome five times; each round says nothing new, NSD stops as we do",
        against: &[Kind::Knot],
        when: |case, ours, theirs| {
            let again = ours.answers.iter().all(|record| theirs.answers.contains(record));
            // Its last round may make a name that is too long.
            let code = if theirs.code == YXDOMAIN { YXDOMAIN } else { ours.code };
            let same = Seen { code, answers: theirs.answers.clone(), ..ours.clone() } == *theirs;
            case.name.to_ascii_lowercase().ends_with(".grow.nyud.example") && again && same
        },
    },
];

/// BIND repeats it always; apart from that its answers are compared like any other's.
const REPEATS_CD: &str = "BIND repeats CD; RFC 4035 3.1.6 has an authority clear it, Knot does";

/// A renaming gives a name that is too long (RFC 6672 2.2).
const YXDOMAIN: u16 = 6;

struct Case {
    name: String,
    kind: u16,
    bytes: Vec<u8>,
}

/// What of a reply is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    code: u16,
    /// AA, TC, RD, RA, AD, CD as their letters.
    flags: String,
    question: String,
    answers: Vec<String>,
    authority: Vec<String>,
    additional: Vec<String>,
    /// Version and DO, if there is an OPT.
    edns: Option<(u8, bool)>,
}

#[tokio::test]
async fn two_thousand_questions_are_answered_as_nsd_knot_and_bind_do() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("zone"), TEXT).unwrap();
    let (_server, ours) = alone(|config: &mut Config| {
        config.mode = Mode::Plain;
        config.zone_file = Some(folder.path().join("zone"));
    })
    .await;
    let compared = tokio::task::spawn_blocking(move || compare(ours)).await.unwrap();
    assert!(compared.asked == 2_000 && compared.cut > 0, "{} asked, {} cut", compared.asked, compared.cut);
    assert!(compared.codes.contains(&YXDOMAIN) && compared.codes.len() >= 5, "codes {:?}", compared.codes);
    assert!(compared.wrong.is_empty(), "{} differ:\n{}", compared.wrong.len(), compared.wrong.join("\n"));
    for reason in KNOWN.iter().map(|known| known.reason).chain([REPEATS_CD]) {
        let times = compared.known.get(reason).copied().unwrap_or(0);
        assert!(times > 0, "no question shows this difference any more: {reason}");
    }
}

struct Compared {
    asked: usize,
    cut: usize,
    /// Every code of ours.
    codes: BTreeSet<u16>,
    wrong: Vec<String>,
    known: BTreeMap<&'static str, usize>,
}

fn compare(ours: SocketAddr) -> Compared {
    let servers = [Kind::Nsd, Kind::Knot, Kind::Bind].map(|kind| (kind, Real::start(kind, ZONE, TEXT)));
    let mut rng = StdRng::seed_from_u64(5);
    let mut compared = Compared { asked: 0, cut: 0, codes: BTreeSet::new(), wrong: Vec::new(), known: BTreeMap::new() };
    while compared.asked < 2_000 {
        compared.asked += 1;
        let case = generate(&mut rng);
        for (kind, server) in &servers {
            let mut mine = seen(&ask(ours, &case.bytes, DEADLINE).expect("our reply"));
            let mut theirs = seen(&ask(server.address, &case.bytes, DEADLINE).expect("a real server's reply"));
            // What is left of a reply that was cut is each server's own choice; asked over TCP, as told, they must agree.
            let is_cut = |seen: &Seen| seen.flags.contains("TC");
            if is_cut(&mine) || is_cut(&theirs) {
                compared.cut += 1;
                // The longest names are shortened to different lengths, and whoever refuses has nothing to cut.
                if is_cut(&mine) && !is_cut(&theirs) && theirs.code == mine.code && case.name.len() < 100 {
                    compared.wrong.push(format!("{} {}: cut by us alone: {theirs:?}", case.name, case.kind));
                }
                mine = seen(&ask_tcp(ours, &case.bytes));
                theirs = seen(&ask_tcp(server.address, &case.bytes));
            }
            compared.codes.insert(mine.code);
            if *kind == Kind::Bind && theirs.flags.ends_with("CD") {
                theirs.flags = theirs.flags.trim_end_matches("CD").to_owned();
                *compared.known.entry(REPEATS_CD).or_default() += 1;
            }
            if mine == theirs {
                continue;
            }
            let known = KNOWN.iter().find(|known| known.against.contains(kind) && (known.when)(&case, &mine, &theirs));
            match known {
                Some(known) => *compared.known.entry(known.reason).or_default() += 1,
                None => compared.wrong.push(format!(
                    "{} {}: {:02x?}\n  ours {mine:?}\n  {kind:?} {theirs:?}",
                    case.name,
                    case.kind,
                    &case.bytes[2..4]
                )),
            }
        }
    }
    compared
}

/// A question: an owner of the zone, or a name near one, in any case, with any type and any header a client may send.
fn generate(rng: &mut StdRng) -> Case {
    let owners: Vec<&str> = TEXT
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('$'))
        .map(|line| line.split_whitespace().next().unwrap_or_default())
        .collect();
    let owner = *owners.choose(rng).unwrap();
    let mut labels: Vec<String> = owner.split('.').filter(|label| *label != "@").map(str::to_owned).collect();
    let word = |rng: &mut StdRng| {
        let words = ["*", "a", "b", "www", "nobody", "x", "y", "w", "sub", "_sip", "ns", "deep", "a-rather-long-label"];
        (*words.choose(rng).unwrap()).to_owned()
    };
    match rng.random_range(0..10) {
        0..4 => {}
        4..6 => labels.insert(0, word(rng)),
        6 => (0..rng.random_range(2..5)).for_each(|_| labels.insert(0, word(rng))),
        7 => _ = (!labels.is_empty()).then(|| labels.remove(0)),
        8 => _ = labels.first_mut().map(|first| *first = word(rng)),
        // Long enough for a renaming to pass 255 bytes.
        _ => {
            if rng.random_bool(0.5) {
                labels = vec![(*["tolong", "grow", "tree", "treein"].choose(rng).unwrap()).to_owned()];
            }
            (0..rng.random_range(1..6)).for_each(|_| labels.insert(0, "l".repeat(rng.random_range(20..48))));
        }
    }
    let name = match rng.random_range(0..40) {
        0 => "www.example.org".to_owned(),
        1 => "example".to_owned(),
        _ => [labels, vec![ZONE.to_owned()]].concat().join("."),
    };
    let name = if name.len() > 253 { ZONE.to_owned() } else { name };
    let name: String = if rng.random_bool(0.2) {
        name.chars().map(|c| if rng.random_bool(0.5) { c.to_ascii_uppercase() } else { c }).collect()
    } else {
        name
    };
    let kinds = [1, 1, 1, 28, 2, 5, 6, 15, 16, 33, 39, 43, 48, 12, 257, 64, 65, 65_280, 35, 250, 255];
    let kind = if rng.random_bool(0.02) { rng.random_range(256..65_000) } else { *kinds.choose(rng).unwrap() };
    let mut bytes = query(&name, RecordType::from(kind));
    // RD, CD and AD are the client's to set.
    bytes[2] |= u8::from(rng.random_bool(0.2));
    bytes[3] |= if rng.random_bool(0.1) { 0x10 } else { 0 } | if rng.random_bool(0.1) { 0x20 } else { 0 };
    let end = bytes.len();
    let bytes = match rng.random_range(0..12) {
        0..4 => bytes,
        4 => with_opt(bytes, 0, 512, &[]),
        5 => with_opt(bytes, 0, 4096, &[]),
        6 => with_opt(bytes, 0, 0, &[]),
        7 => with_opt(bytes, 1, 1232, &[]),
        8 => with_opt(bytes, 0, 1232, &[0xff, 0xe0, 0, 2, 1, 2]),
        9 => {
            let mut bytes = with_opt(bytes, 0, 1232, &[]);
            bytes[end + 7] |= 0x80;
            bytes
        }
        10 => {
            let mut bytes = with_opt(bytes, 0, 1232, &[]);
            // EDNS flags nobody has defined.
            bytes[end + 8] |= 0x55;
            bytes
        }
        _ => with_opt(bytes, 0, 1232, &[]),
    };
    Case { name, kind, bytes }
}

fn seen(bytes: &[u8]) -> Seen {
    let message = Message::from_vec(bytes).unwrap_or_else(|error| panic!("{error}: {bytes:02x?}"));
    let [high, low] = [bytes[2], bytes[3]];
    let bits = [
        (high & 4, "AA "),
        (high & 2, "TC "),
        (high & 1, "RD "),
        (low & 0x80, "RA "),
        (low & 0x20, "AD "),
        (low & 0x10, "CD"),
    ];
    let text = |records: &[Record]| {
        let mut lines: Vec<String> = records.iter().map(|record| record.to_string().to_ascii_lowercase()).collect();
        lines.sort();
        lines
    };
    let high = message.edns.as_ref().map_or(0, |edns| edns.rcode_high());
    Seen {
        code: u16::from(low & 0x0f) | u16::from(high) << 4,
        flags: bits.iter().filter(|(bit, _)| *bit != 0).map(|(_, letter)| *letter).collect(),
        question: message.queries.iter().map(ToString::to_string).collect(),
        answers: text(&message.answers),
        authority: text(&message.authorities),
        additional: text(&message.additionals),
        edns: message.edns.as_ref().map(|edns| (edns.version(), edns.flags().dnssec_ok)),
    }
}
