//! Joining: a knock, a proof, a welcome that is itself proved. First by what an earlier join gave, then by the token.

use std::{path::PathBuf, time::Duration};

use http::StatusCode;

use super::kept::Kept;
use crate::{
    front::ask::{AskError, Bounds, Line, Place, Question},
    manager::{
        membership::put_certificate,
        token::{Secret, Token, nonce},
        wire::{Challenge, Join, Welcome},
    },
};

/// What a peer says of itself when it joins.
#[derive(Debug, Clone)]
pub(crate) struct Applicant {
    pub(crate) token: Option<Token>,
    /// "" if the manager is to see for itself.
    pub(crate) advertise: String,
    pub(crate) port: u16,
    /// The public key of its node.
    pub(crate) node: String,
    /// Where that node looks for its certificate.
    pub(crate) directory: PathBuf,
}

/// It was admitted.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) session: Secret,
    pub(crate) welcome: Welcome,
}

/// Why it was not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JoinError {
    /// The manager cannot be asked now: later.
    #[error(transparent)]
    Later(#[from] AskError),
    /// The manager has said no, or is not who the token says: asking again changes nothing.
    #[error("{0}")]
    Never(String),
}

/// Joins, or says why not.
pub(crate) async fn join(manager: &Place, kept: &mut Kept, applicant: &Applicant) -> Result<Joined, JoinError> {
    let mut line = Line::to(manager.clone());
    let challenge = knock(&mut line).await?;
    if let Some(credential) = kept.credential(&challenge.network)
        && let Some(joined) = attempt(&mut line, &challenge, kept, applicant, (String::new(), credential)).await?
    {
        return Ok(joined);
    }
    let never = |why: &str| JoinError::Never(why.to_owned());
    let Some(token) = &applicant.token else {
        return Err(never("this machine was never admitted there: a token is needed (--token T)"));
    };
    let network: Option<String> = token.network.map(|id| id.iter().map(|byte| format!("{byte:02x}")).collect());
    if network.is_some_and(|network| network != challenge.network) {
        return Err(never("this token is for another network than the one that this manager keeps"));
    }
    let challenge = knock(&mut line).await?;
    let secret = token.secret();
    let joined = attempt(&mut line, &challenge, kept, applicant, (secret.id(), secret)).await?;
    joined.ok_or_else(|| never("the manager does not know this machine"))
}

async fn knock(line: &mut Line) -> Result<Challenge, AskError> {
    let reply = line.ask(Question::post("/_atoll/knock", &()), BOUNDS).await?;
    if reply.status != StatusCode::OK {
        return Err(AskError::Strange(format!("it answers a knock with {}", reply.status)));
    }
    reply.json()
}

/// One attempt by one secret; none if the manager does not know us by it.
async fn attempt(
    line: &mut Line,
    challenge: &Challenge,
    kept: &mut Kept,
    applicant: &Applicant,
    (token, secret): (String, Secret),
) -> Result<Option<Joined>, JoinError> {
    let first = !token.is_empty();
    let join = Join {
        token,
        peer: kept.name.clone(),
        nonce: challenge.nonce.clone(),
        own_nonce: nonce(),
        advertise: applicant.advertise.clone(),
        port: applicant.port,
        node: applicant.node.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        proof: String::new(),
    };
    let join = join.prove(&secret);
    let reply = line.ask(Question::post("/_atoll/join", &join), BOUNDS).await?;
    match reply.status {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED => return Ok(None),
        StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => return Err(JoinError::Never(reply.line())),
        other => return Err(AskError::Strange(format!("it answers {other}: {}", reply.line())).into()),
    }
    let welcome: Welcome = reply.json()?;
    let session = join.session(&secret);
    if !welcome.is_proved(&session) {
        return Err(JoinError::Never(
            "what answers there does not know the token: it is no manager of yours".to_owned(),
        ));
    }
    put_certificate(&applicant.directory, &welcome.certificate).map_err(JoinError::Never)?;
    if first {
        kept.admitted(&welcome.network_id, &join.credential(&secret));
    }
    kept.welcome = Some(welcome.clone());
    Ok(Some(Joined { session, welcome }))
}

const BOUNDS: Bounds = Bounds { time: Duration::from_secs(5), bytes: 64 << 10 };
