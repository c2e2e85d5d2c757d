//! `cargo xtask fuzz`: each fuzz target for a while. A target is a test that calls `bolero::check!`: `cargo xtask test` runs it
//! briefly, this for as long as is wanted, with inputs of its own each time. The first that fails ends it, with the line that replays it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Instant,
};

use clap::Args;

use crate::{cargo, line, say};

/// What to fuzz
#[derive(Args)]
pub(crate) struct Options {
    /// Seconds for each target
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Name the targets, and run none
    #[arg(long)]
    list: bool,
    /// Replay this seed, once for each target, as a failure printed it
    #[arg(long)]
    seed: Option<u128>,
    /// Only targets of whose package and name this is a part, such as `atoll_dnssrv` or `any_edns`
    only: Option<String>,
}

/// One test of a test program.
struct Target {
    program: PathBuf,
    package: String,
    name: String,
}

/// Runs them one after another.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    let targets: Vec<Target> = targets(Path::new("."))?
        .into_iter()
        .filter(|target| options.only.as_ref().is_none_or(|part| target.shown().contains(part.as_str())))
        .collect();
    if targets.is_empty() {
        return Err("there is no such target; `cargo xtask fuzz --list` names all".to_owned());
    }
    if options.list {
        targets.iter().for_each(|target| say(&target.shown()));
        return Ok(());
    }
    for (at, target) in targets.iter().enumerate() {
        // Said before, so that it is known which one does not end.
        say(&format!("{} of {}: {}", at + 1, targets.len(), target.shown()));
        let began = Instant::now();
        let output = target.run(options)?;
        if !output.status.success() {
            return Err(target.failure(&output));
        }
        say(&format!("  held for {:.0?}", began.elapsed()));
    }
    Ok(())
}

impl Target {
    fn shown(&self) -> String {
        format!("{} {}", self.package, self.name)
    }

    fn run(&self, options: &Options) -> Result<Output, String> {
        let mut command = Command::new(&self.program);
        command.args(["--exact", &self.name, "--nocapture"]);
        match options.seed {
            Some(seed) => command.env("BOLERO_RANDOM_SEED", seed.to_string()).env("BOLERO_RANDOM_ITERATIONS", "0"),
            // Whatever number of inputs the test has by itself.
            None => command
                .env("BOLERO_RANDOM_TEST_TIME_MS", (options.seconds * 1_000).to_string())
                .env("BOLERO_RANDOM_ITERATIONS", usize::MAX.to_string()),
        };
        command.output().map_err(|error| format!("{} could not be started: {error}", line(&command)))
    }

    /// What a failed run said, and how it is had again.
    fn failure(&self, output: &Output) -> String {
        let said = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat();
        let again = match seed(&said) {
            Some(seed) => format!("to replay it: cargo xtask fuzz --seed {seed} {}", self.name),
            None => format!("without an input of its own: {} --exact {}", self.program.display(), self.name),
        };
        format!("{said}\n{} failed; {again}", self.shown())
    }
}

/// The seed that a failure names.
fn seed(said: &str) -> Option<&str> {
    let (_, rest) = said.split_once("BOLERO_RANDOM_SEED=")?;
    let end = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
    rest.get(..end).filter(|seed| !seed.is_empty())
}

/// All targets of the workspace in this folder: in the sources the names of tests that check by inputs, in the test programs the
/// whole names of these. All are built in one go, as `cargo xtask test` builds them.
fn targets(root: &Path) -> Result<Vec<Target>, String> {
    let mut names = Vec::new();
    for folder in packages(root)? {
        for part in ["src", "tests"] {
            sources(&folder.join(part), &mut |text| names.extend(checks(text)))?;
        }
    }
    say("building the test programs");
    let mut build = cargo();
    build.args(["test", "--workspace", "--tests", "--no-run"]);
    let said = output(&mut build)?.stderr;
    let mut targets = Vec::new();
    for program in String::from_utf8_lossy(&said).lines().filter_map(program) {
        let mut list = Command::new(&program);
        let listed = output(list.args(["--list", "--format", "terse"]))?.stdout;
        let package = package(&program);
        for test in String::from_utf8_lossy(&listed).lines().filter_map(|line| line.strip_suffix(": test")) {
            if test.rsplit("::").next().is_some_and(|last| names.iter().any(|name| name == last)) {
                targets.push(Target { program: program.clone(), package: package.clone(), name: test.to_owned() });
            }
        }
    }
    Ok(targets)
}

/// What a command said, if it ended well.
fn output(command: &mut Command) -> Result<Output, String> {
    let output = command.output().map_err(|error| format!("{} could not be started: {error}", line(command)))?;
    if output.status.success() {
        return Ok(output);
    }
    Err(format!("{} failed:\n{}", line(command), String::from_utf8_lossy(&output.stderr)))
}

/// The test program that a line of cargo's names: `  Executable unittests src/lib.rs (target/debug/deps/atoll_store-0123)`.
fn program(line: &str) -> Option<PathBuf> {
    let (_, path) = line.trim_start().strip_prefix("Executable ")?.rsplit_once(" (")?;
    Some(path.strip_suffix(')')?.into())
}

/// What a test program is called after, without its number.
fn package(program: &Path) -> String {
    let name = program.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    name.rsplit_once('-').map_or_else(|| name.clone(), |(name, _)| name.to_owned())
}

/// The folders of the workspace's packages: the root and every folder with a manifest, two steps down at most.
fn packages(root: &Path) -> Result<Vec<PathBuf>, String> {
    let mut found = vec![root.to_owned()];
    for outer in folders(root)? {
        found.extend(folders(&outer)?);
        found.push(outer);
    }
    found.retain(|folder| folder.join("Cargo.toml").is_file());
    found.sort();
    Ok(found)
}

fn folders(of: &Path) -> Result<Vec<PathBuf>, String> {
    let mut folders = entries(of)?;
    let is_hidden = |path: &PathBuf| path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
    folders.retain(|path| path.is_dir() && !is_hidden(path) && !path.ends_with("target"));
    Ok(folders)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let wrong = |error: std::io::Error| format!("{}: {error}", folder.display());
    let entries = fs::read_dir(folder).map_err(wrong)?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(wrong)).collect()
}

/// Every Rust source in a folder, unless it is another package's.
fn sources(folder: &Path, each: &mut dyn FnMut(&str)) -> Result<(), String> {
    if !folder.is_dir() || folder.join("Cargo.toml").is_file() {
        return Ok(());
    }
    for path in entries(folder)? {
        if path.is_dir() {
            sources(&path, each)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            each(&read(&path)?);
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// The functions of a source that check by inputs: of each call the function whose head stands nearest above it.
fn checks(text: &str) -> Vec<String> {
    let (mut names, mut current) = (Vec::new(), None);
    for line in text.lines().map(str::trim_start).filter(|line| !line.starts_with("//")) {
        let head = ["fn ", "async fn ", "pub(crate) fn "].iter().find_map(|head| line.strip_prefix(head));
        if let Some((name, _)) = head.and_then(|rest| rest.split_once(['(', '<'])) {
            current = Some(name.to_owned());
        }
        if line.contains("bolero::check!(") {
            names.extend(current.take());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "fn helper() {}\n    #[test]\n    fn any_text_is_read() {\n        bolero::check!().for_each(|bytes| {});\n\
                          // bolero::check!() in words\n    }\n    fn other<T>() {}\n";

    #[test]
    fn a_target_is_the_test_that_checks_by_inputs() {
        assert_eq!(checks(SOURCE), ["any_text_is_read"]);
        let line = "  Executable unittests src/lib.rs (target/debug/deps/atoll_store-0123)";
        assert_eq!(program(line), Some(PathBuf::from("target/debug/deps/atoll_store-0123")));
        assert_eq!(package(&program(line).unwrap()), "atoll_store");
        assert_eq!(program("   Compiling atoll-store v0.1.0 (/x)"), None);
    }

    #[test]
    fn a_failure_says_how_it_is_had_again() {
        assert_eq!(seed("panicked\n\nBOLERO_RANDOM_SEED=2733\n\nbacktrace"), Some("2733"));
        assert_eq!((seed("BOLERO_RANDOM_SEED=x"), seed("error")), (None, None));
    }

    #[test]
    fn every_package_with_targets_is_found() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for package in ["", "dnssrv", "overlay", "proxy", "store", "tests/lab", "units"] {
            let folder = packages(root).unwrap().into_iter().find(|folder| *folder == root.join(package)).unwrap();
            let mut count = 0;
            sources(&folder.join("src"), &mut |text| count += checks(text).len()).unwrap();
            assert!(count > 0, "{package} has none");
        }
    }
}
