//! Recursive resolvers, each near its defaults: hardening stays on. QNAME minimisation is asked for by name, in the mode that is each
//! program's default, so that no build of it leaves it off; the scenario `names` looks at what a TLD is asked.
//!
//! What differs, and why: hints name the lab's root; DNSSEC validation is off, since that root is unsigned; built-in answers for
//! `test.` and refusals to query reserved ranges are off, since the lab lives there.

use std::path::Path;

use super::{Program, Ready, installed};
use crate::{
    error::Error,
    scenario::{Host, Recursor, Scenario},
    zones,
};

pub(super) fn program(
    program: Recursor,
    ecs: bool,
    scenario: &Scenario,
    host: &Host,
    folder: &Path,
) -> Result<Program, Error> {
    let at = folder.display();
    let (command, package, file, text, arguments) = match program {
        Recursor::Unbound => (
            "unbound",
            "unbound",
            "unbound.conf",
            unbound(host, ecs, folder),
            vec!["-d".into(), "-c".into(), format!("{at}/unbound.conf")],
        ),
        Recursor::Bind9 => {
            let arguments = ["-g", "-n", "1", "-c", "named.conf"].map(String::from).to_vec();
            ("named", "bind9", "named.conf", bind9(host, folder), arguments)
        }
        Recursor::KnotResolver => {
            let arguments = vec!["-n".into(), "-c".into(), format!("{at}/kresd.conf"), at.to_string()];
            ("kresd", "knot-resolver", "kresd.conf", knot_resolver(host, folder), arguments)
        }
        Recursor::PdnsRecursor => {
            let arguments = vec![format!("--config-dir={at}")];
            ("pdns_recursor", "pdns-recursor", "recursor.conf", pdns_recursor(host, ecs, folder), arguments)
        }
    };
    let command = installed(host, command, package)?;
    let files = vec![(file.into(), text.into_bytes()), ("root.hints".into(), zones::root_hints(scenario).into_bytes())];
    Ok(Program { name: program.name(), command, arguments, files, ready: Ready::Dns, stage: 1 })
}

fn unbound(host: &Host, ecs: bool, folder: &Path) -> String {
    let (v4, v6, at) = (host.id.v4(), host.id.v6(), folder.display());
    let (modules, subnet) = match ecs {
        true => (
            "subnetcache iterator",
            "  send-client-subnet: 0.0.0.0/0\n  send-client-subnet: ::/0\n  max-client-subnet-ipv6: 48\n",
        ),
        false => ("iterator", ""),
    };
    format!(
        "server:\n  interface: {v4}\n  interface: {v6}\n  username: \"\"\n  chroot: \"\"\n  directory: \"{at}\"\n  \
         pidfile: \"\"\n  use-syslog: no\n  logfile: \"\"\n  verbosity: 1\n  num-threads: 1\n  access-control: 0.0.0.0/0 allow\n  \
         access-control: ::/0 allow\n  root-hints: \"{at}/root.hints\"\n  module-config: \"{modules}\"\n  \
         local-zone: \"test.\" nodefault\n  qname-minimisation: yes\n{subnet}\
         remote-control:\n  control-enable: no\n"
    )
}

fn bind9(host: &Host, folder: &Path) -> String {
    let (v4, v6, at) = (host.id.v4(), host.id.v6(), folder.display());
    format!(
        "options {{\n  directory \"{at}\";\n  pid-file none;\n  lock-file none;\n  session-keyfile none;\n  listen-on {{ {v4}; }};\n  \
         listen-on-v6 {{ {v6}; }};\n  recursion yes;\n  allow-query {{ any; }};\n  allow-recursion {{ any; }};\n  \
         allow-query-cache {{ any; }};\n  dnssec-validation no;\n  empty-zones-enable no;\n  \
         qname-minimization relaxed;\n}};\n\
         controls {{ }};\n\
         zone \".\" {{ type hint; file \"{at}/root.hints\"; }};\n"
    )
}

fn knot_resolver(host: &Host, folder: &Path) -> String {
    let (v4, v6, at) = (host.id.v4(), host.id.v6(), folder.display());
    format!(
        "net.listen({{ '{v4}', '{v6}' }}, 53, {{ kind = 'dns' }})\n\
         modules = {{ 'hints' }}\n\
         hints.root_file('{at}/root.hints')\n\
         trust_anchors.remove('.')\n\
         option('NO_MINIMIZE', false)\n\
         policy.add(policy.suffix(policy.PASS, {{ todname('test.') }}))\n\
         cache.open(16 * MB, 'lmdb://{at}/cache')\n"
    )
}

fn pdns_recursor(host: &Host, ecs: bool, folder: &Path) -> String {
    let (v4, v6, at) = (host.id.v4(), host.id.v6(), folder.display());
    let subnet = if ecs { "edns-subnet-allow-list=0.0.0.0/0, ::/0\necs-ipv6-bits=48\n" } else { "" };
    format!(
        "local-address={v4}, {v6}\nquery-local-address=0.0.0.0, ::\nallow-from=0.0.0.0/0, ::/0\nhint-file={at}/root.hints\n\
         socket-dir={at}\ndaemon=no\nwrite-pid=no\ndisable-syslog=yes\nquiet=yes\nthreads=1\ndnssec=off\ndont-query=\n\
         security-poll-suffix=\nserve-rfc1918=no\nqname-minimization=yes\n{subnet}"
    )
}
