//! For ordinary users, where the kernel allows it: the process becomes root of a user namespace of its own, with its own /run, in
//! which everything else works as for root. Such a lab is seen only by this process and by whoever enters its namespaces.

use std::fs;

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::{getegid, geteuid},
};

use crate::error::Error;

/// Whether this process is not root and must do with a user namespace.
pub(crate) fn is_needed() -> bool {
    !geteuid().is_root()
}

/// Moves the whole process there. Must come before any thread is started.
pub(crate) fn enter() -> Result<(), Error> {
    let (user, group) = (geteuid(), getegid());
    let why = |what: &str, error: &dyn std::fmt::Display| Error::Privilege { why: format!("{what}: {error}") };
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
        .map_err(|error| why("user namespace", &error.desc()))?;
    let maps =
        [("setgroups", "deny".to_owned()), ("uid_map", format!("0 {user} 1")), ("gid_map", format!("0 {group} 1"))];
    for (file, text) in maps {
        fs::write(format!("/proc/self/{file}"), text).map_err(|error| why(file, &error))?;
    }
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_SLAVE | MsFlags::MS_REC, None::<&str>)
        .and_then(|()| mount(Some("lab"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>))
        .map_err(|error| why("a /run of its own", &error.desc()))
}
