//! Puts to disk beside foyer's, the bare device's and those of a bare store of the same shape, and the ways to read a file that
//! the engine could have been built on.

use std::path::Path;

use crate::report::{Report, Row};
use crate::rounds::median;
use crate::store::child::figures_of;
use crate::store::peers::Peers;
use crate::store::{Options, told};

const BODY: &str = "24576";
/// Fills at a time, each of which waits for its answer: two for each of two cores, and a crowd.
const FEW: &str = "4";
const MANY: &str = "64";
const MEBIBYTE: f64 = 1_048_576.0;

pub(crate) fn measure(report: &mut Report, peers: &Peers, scratch: &Path, options: &Options) -> Result<(), String> {
    let bytes = options.bytes.to_string();
    let rate = |task: &str, more: &[&str]| -> Result<Option<f64>, String> {
        let figures = fresh(scratch, |folder| figures_of(&[&[task, folder, &bytes], more].concat()))?;
        Ok(figures.first().map(|rate| rate / MEBIBYTE))
    };
    let [mut few, mut many, mut bare, mut theirs, mut device] = [const { Vec::new() }; 5];
    for _ in 0..options.rounds {
        device.extend(rate("device", &[])?);
        few.extend(rate("put", &[BODY, FEW])?);
        many.extend(rate("put", &[BODY, MANY])?);
        bare.extend(rate("bare", &[BODY])?);
        let measured = fresh(scratch, |folder| peers.run(&["put", folder, &bytes, BODY]))?;
        theirs.extend(measured.and_then(|it| it.first().map(|rate| rate / MEBIBYTE)));
    }
    let (device, bare) = (median(&mut device), median(&mut bare));
    let theirs = (!theirs.is_empty()).then(|| median(&mut theirs));
    for (name, rates) in [("put_disk_24k", &mut few), ("put_disk_24k_64_fills", &mut many)] {
        let row = Row::new(name, median(rates), "MiB/s").against("device", device).against("bare", bare);
        report.add(if let Some(theirs) = theirs { row.against("foyer", theirs) } else { row });
    }
    fresh(scratch, |folder| ways(report, peers, folder, options))
}

/// Random reads of 24 KB out of a file larger than what is left of the page cache for it, and out of one that is cached.
fn ways(report: &mut Report, peers: &Peers, folder: &str, options: &Options) -> Result<(), String> {
    figures_of(&["device", folder, &options.bytes.to_string()])?;
    let file = format!("{folder}/device");
    for (name, cold) in [("cold", true), ("cached", false)] {
        for way in ["nowait", "pool", "direct", "uring", "uring-direct"] {
            if !cold && way.ends_with("direct") {
                continue;
            }
            let (mut rates, mut costs) = (Vec::new(), Vec::new());
            for _ in 0..options.rounds {
                if cold {
                    super::index::forget_pages(Path::new(folder))?;
                } else {
                    drop(std::fs::read(&file).map_err(told)?);
                }
                let Some(figures) = peers.run(&["read", &file, BODY, "2", way, "16"])? else { return Ok(()) };
                let [rate, cost] = figures[..] else { return Err("a way to read has two figures".to_owned()) };
                rates.push(rate);
                costs.push(cost);
            }
            report.add(Row::new(&format!("read_{name}_{way}"), median(&mut rates), "/s"));
            report.add(Row::new(&format!("read_{name}_{way}_cpu"), median(&mut costs), "us"));
        }
    }
    Ok(())
}

/// Does something in an empty directory, and empties it again.
fn fresh<T>(scratch: &Path, work: impl FnOnce(&str) -> Result<T, String>) -> Result<T, String> {
    let folder = tempfile::tempdir_in(scratch).map_err(told)?;
    work(folder.path().to_str().ok_or("the scratch directory is no text")?)
}
