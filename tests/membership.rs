//! A closed network as docs/membership.md shows it: every command there is run as it stands, on real nodes.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use crate::support::{Process, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn the_walk_through_makes_a_closed_network_renews_and_revokes() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let [make, renew, revoke] = scripts().try_into().unwrap();
    run(at, &make);
    let one = Process::start(&at.join("one"), &config(&at.join("one"), None, "closed")).await;
    let seed = overlay(&one).await;
    let two = Process::start(&at.join("two"), &config(&at.join("two"), Some(&seed), "closed")).await;
    eventually("two members linked", async || size(&one).await == 2 && size(&two).await == 2).await;
    assert!(!one.log().contains("THIS NETWORK IS OPEN"));

    // Nobody without a certificate takes part, whatever it says of itself.
    let outsider = Process::start(&at.join("three"), &config(&at.join("three"), Some(&seed), "open")).await;
    assert!(outsider.log().contains("THIS NETWORK IS OPEN"));
    assert_eq!(outsider.status().await.unwrap()["admission"]["mode"], "open");
    let refused = refusal(&at.join("four"), &seed);
    assert!(refused.contains("has no certificate") && refused.contains("atoll key admit"), "{refused}");

    let until = async || one.status().await.unwrap()["admission"]["until"].as_u64().unwrap();
    let before = until().await;
    // Another second: a certificate signed within the same one would end with the first.
    eventually("the next second", async || now() > before - 30 * 86_400).await;
    run(at, &renew);
    eventually("the renewal seen", async || until().await > before).await;
    assert_eq!(size(&two).await, 2, "no link was cut for it");

    run(at, &revoke);
    eventually("the revoked node cut", async || one.log().contains("a member no longer")).await;
    eventually("and forgotten", async || neighbours(&one).await == 0).await;
    eventually("the wish taken", async || !at.join("one/state/revoke/two").exists()).await;
    assert_eq!(neighbours(&outsider).await, 0);
}

/// The blocks of shell in the document, in order.
fn scripts() -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/membership.md")).unwrap();
    let blocks = text.split("```sh\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

/// Runs a block in a folder, with our program in front of any other.
fn run(folder: &Path, script: &str) {
    let program = Path::new(env!("CARGO_BIN_EXE_atoll")).parent().unwrap();
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::env::join_paths([program.to_owned()].into_iter().chain(std::env::split_paths(&paths))).unwrap();
    let output = Command::new("sh").args(["-ec", script]).current_dir(folder).env("PATH", paths).output().unwrap();
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// What a node says that is to be a member and has no certificate.
fn refusal(folder: &Path, seed: &str) -> String {
    std::fs::create_dir_all(folder).unwrap();
    let file = folder.join("atoll.toml");
    std::fs::write(&file, config(folder, Some(seed), "closed")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_atoll"));
    let output = command.arg("node").arg("--config").arg(&file).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn config(folder: &Path, seed: Option<&str>, admission: &str) -> String {
    let bootstrap = seed.map_or_else(String::new, |seed| format!("bootstrap = [\"{seed}\"]\n"));
    format!(
        "[node]\nroles = [\"manager\"]\nstate = \"{}/state\"\nnetwork = \"test\"\ndrain_wait = \"0s\"\n{bootstrap}\
         [overlay]\nadmission = \"{admission}\"\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n\
         [manager]\nlisten = [\"127.0.0.1:0\"]\n",
        folder.display()
    )
}

/// Where a node listens for others.
async fn overlay(node: &Process) -> String {
    let status = node.status().await.unwrap();
    let listening = status["listen"].as_array().unwrap();
    listening.iter().find(|one| one["service"] == "overlay").unwrap()["address"].as_str().unwrap().to_owned()
}

/// How many nodes a node thinks its network has.
async fn size(node: &Process) -> u64 {
    node.status().await.unwrap()["levels"][0]["size"].as_u64().unwrap()
}

async fn neighbours(node: &Process) -> usize {
    node.status().await.unwrap()["levels"][0]["neighbours"].as_array().unwrap().len()
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}
