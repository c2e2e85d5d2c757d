//! The real servers and tools that the tests talk to: which they are, whether they are here, and how the system's package
//! manager brings them.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// A program the tests need.
pub(crate) struct Program {
    /// What is executed.
    pub(crate) name: &'static str,
    /// What the tests need it for.
    pub(crate) purpose: &'static str,
    /// The package that has it, by package manager: apt-get, dnf, apk, pacman.
    packages: [&'static str; 4],
}

/// All of them.
pub(crate) const PROGRAMS: [Program; 15] = [
    Program { name: "curl", purpose: "fetches pages as a user would", packages: ["curl", "curl", "curl", "curl"] },
    Program {
        name: "dig",
        purpose: "asks DNS servers as a user would",
        packages: ["bind9-dnsutils", "bind-utils", "bind-tools", "bind"],
    },
    Program {
        name: "ip",
        purpose: "makes the network namespaces that the real servers run in",
        packages: ["iproute2", "iproute", "iproute2", "iproute2"],
    },
    Program { name: "unbound", purpose: "a real resolver", packages: ["unbound", "unbound", "unbound", "unbound"] },
    Program { name: "named", purpose: "BIND, a real resolver", packages: ["bind9", "bind", "bind", "bind"] },
    Program { name: "nsd", purpose: "the real parent of the zone", packages: ["nsd", "nsd", "nsd", "nsd"] },
    Program { name: "knotd", purpose: "a real nameserver, for the lab", packages: ["knot", "knot", "knot", "knot"] },
    Program {
        name: "kresd",
        purpose: "a real resolver, for the lab",
        packages: ["knot-resolver", "knot-resolver", "knot-resolver", "knot-resolver"],
    },
    Program {
        name: "pdns_recursor",
        purpose: "a real resolver, for the lab",
        packages: ["pdns-recursor", "pdns-recursor", "pdns-recursor", "powerdns-recursor"],
    },
    Program {
        name: "ping",
        purpose: "measures the lab's distances",
        packages: ["iputils-ping", "iputils", "iputils", "iputils"],
    },
    Program { name: "nginx", purpose: "a real origin", packages: ["nginx-light", "nginx-core", "nginx", "nginx"] },
    Program {
        name: "varnishd",
        purpose: "a real cache, whose answers the proxy's are compared with",
        packages: ["varnish", "varnish", "varnish", "varnish"],
    },
    Program {
        name: "squid",
        purpose: "a real cache, whose answers the proxy's are compared with",
        packages: ["squid", "squid", "squid", "squid"],
    },
    Program {
        name: "chromium",
        purpose: "a real browser, for the lab and the manager's page",
        packages: ["chromium", "chromium", "chromium", "chromium"],
    },
    Program { name: "cargo-deny", purpose: "checks the dependency tree", packages: ["", "", "", ""] },
];

/// Package managers with the words that install, in the order of [`Program::packages`].
const MANAGERS: [(&str, &[&str]); 4] = [
    ("apt-get", &["install", "--yes", "--no-install-recommends"]),
    ("dnf", &["install", "--assumeyes"]),
    ("apk", &["add"]),
    ("pacman", &["-S", "--noconfirm", "--needed"]),
];

/// Where system programs live that are not on every user's path.
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/sbin"];

/// The programs that are not here.
pub(crate) fn missing() -> Vec<&'static Program> {
    PROGRAMS.iter().filter(|program| find(program.name).is_none()).collect()
}

/// Installs what is missing, after saying what and how. Without root it says what it cannot install.
pub(crate) fn install(missing: &[&Program]) -> Result<(), String> {
    let (by_cargo, by_system): (Vec<_>, Vec<_>) = missing.iter().partition(|program| program.packages[0].is_empty());
    if !by_system.is_empty() {
        install_packages(&by_system)?;
    }
    for program in by_cargo {
        crate::say(&format!("installing {} with cargo: {}", program.name, program.purpose));
        let mut command = crate::cargo();
        // Built without optimisation: it runs for a second, and the build is five times shorter.
        crate::must(command.args(["install", "--quiet", "--locked", "--debug", program.name]))?;
    }
    Ok(())
}

/// The hint for somebody who has to install by hand.
pub(crate) fn hint(missing: &[&Program]) -> String {
    let lines = missing.iter().map(|program| format!("\n  {:<10} {}", program.name, program.purpose));
    format!(
        "these programs are missing:{}\nrun `cargo xtask test --install` to fetch them, or install them by hand",
        lines.collect::<String>()
    )
}

/// Whether this process may make namespaces and install packages.
pub(crate) fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

fn install_packages(programs: &[&&Program]) -> Result<(), String> {
    let Some((index, (manager, words))) = MANAGERS.iter().enumerate().find(|(_, (name, _))| find(name).is_some())
    else {
        return Err(format!(
            "no known package manager here; {}",
            hint(&programs.iter().map(|p| **p).collect::<Vec<_>>())
        ));
    };
    let packages: Vec<_> = programs.iter().filter_map(|program| program.packages.get(index).copied()).collect();
    crate::say(&format!("installing with {manager}: {}", packages.join(" ")));
    if !is_root() {
        return Err(format!(
            "{manager} needs root: run it yourself as `sudo {manager} {} {}`",
            words.join(" "),
            packages.join(" ")
        ));
    }
    if *manager == "apt-get" {
        crate::must(Command::new(manager).args(["update", "--quiet"]))?;
    }
    // The tests start the servers themselves, on addresses of their own: the packages must not start theirs.
    let mut command = Command::new(manager);
    command.args(*words).args(packages).env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
    crate::must(&mut command)
}

fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")));
    let folders = env::split_paths(&path).chain(SYSTEM_FOLDERS.iter().map(PathBuf::from));
    let mut folders = folders.chain(home.map(|home| home.join("bin")));
    folders.find_map(|folder| Some(folder.join(name)).filter(|file| Path::is_file(file)))
}
