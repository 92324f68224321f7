//! Drives a change to its end: requests it, shows its stages, and requests it again while leaders change.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use paxos_client::{
    Client,
    raw::{ChangeError, ChangeStream},
};
use paxos_common::{paxos::quorum::Configuration, service::failure::Failure};
use paxos_proto::v1::{self as pb, change_members_response::Stage};
use tokio::time::{Instant, sleep};

use super::{
    PATIENCE_MAX,
    look::{MembersLook, Plan},
};
use crate::{
    connection::no,
    json,
    output::{Form, OutputArgs, printable, write},
    verdict::Tolerance,
};

/// Pause before the next request.
const PAUSE: Duration = Duration::from_millis(100);

/// Requests the change until it is made or refused, or until no leader has answered for `timeout`.
///
/// # Cancel safety
/// A change that was begun goes on.
pub(super) async fn drive(
    client: &Client,
    plan: &Plan,
    output: OutputArgs,
    timeout: Duration,
) -> Result<(), Failure> {
    let mut shown = Shown::begin(plan, output).await?;
    // Whether the change may be under way by an earlier request.
    let mut is_open = false;
    let mut until = Instant::now() + timeout;
    loop {
        let error = match client.change_members(&plan.request).await {
            Ok(change) => match follow(change, &mut shown, &mut until, timeout).await? {
                Ended::Done(configuration, waited) => return shown.done(&configuration, waited).await,
                Ended::Failed(error) => error,
            },
            Err(error) => error,
        };
        match error {
            ChangeError::Refused(cause) => {
                // After an open outcome, the next leader may know the change as made, and not the request.
                if is_open && let Some(made) = made(client, plan).await {
                    return shown.done(&made, None).await;
                }
                shown.end();
                return Err(no(format!("{cause}{}", plan.advice)));
            }
            ChangeError::NotMade(cause) if Instant::now() >= until => {
                shown.end();
                let open = if is_open {
                    " The change may be made, or may still be made."
                } else {
                    ""
                };
                return Err(Failure::unavailable(anyhow::anyhow!(
                    "{cause}.{open} Run the same command again; `paxos status` shows what is wrong. If the proposers have \
                     other addresses here, give these by --proposers"
                )));
            }
            ChangeError::Unknown(cause) if Instant::now() >= until => {
                shown.end();
                return Err(Failure::unavailable(anyhow::anyhow!(
                    "{cause}. The change may be made, or may still be made: run the same command again"
                )));
            }
            ChangeError::NotMade(_) => {}
            ChangeError::Unknown(_) => is_open = true,
        }
        sleep(PAUSE).await;
    }
}

enum Ended {
    /// The new configuration, and for how long commands waited, in milliseconds, if the leader knows.
    Done(pb::Configuration, Option<u64>),
    Failed(ChangeError),
}

/// Shows the stages, up to the end of the stream. Each stage gives the next leader the whole time.
async fn follow(
    mut change: ChangeStream,
    shown: &mut Shown<'_>,
    until: &mut Instant,
    timeout: Duration,
) -> Result<Ended, Failure> {
    loop {
        match change.next().await {
            Ok(answer) => {
                *until = Instant::now() + timeout;
                let waited = answer.waited_ms;
                match answer.stage {
                    Some(Stage::Done(configuration)) => return Ok(Ended::Done(configuration, waited)),
                    Some(stage) => shown.stage(stage).await?,
                    None => {}
                }
            }
            Err(error) => {
                *until = Instant::now() + timeout;
                return Ok(Ended::Failed(error));
            }
        }
    }
}

/// The present configuration, if it is the result of the plan.
async fn made(client: &Client, plan: &Plan) -> Option<pb::Configuration> {
    let report = client.with_timeout(PATIENCE_MAX).cluster_report().await;
    let look = MembersLook::of(&report).ok()?;
    plan.makes(&look.configuration)
        .then(|| (&look.configuration).into())
}

/// The stages, as lines or as JSON.
struct Shown<'a> {
    plan: &'a Plan,
    output: OutputArgs,
    /// On standard error, if it is a terminal.
    bar: ProgressBar,
    begun: Instant,
    /// The kind of the last line.
    last: &'static str,
}

impl<'a> Shown<'a> {
    async fn begin(plan: &'a Plan, output: OutputArgs) -> Result<Self, Failure> {
        let style = ProgressStyle::with_template("{msg} {wide_bar} {human_pos} of {human_len} slots");
        let style = style.expect("the template is a tested constant");
        let bar = ProgressBar::new(0).with_style(style).with_message("copying");
        if output.output == Form::Text {
            write(&format!("{}\n", plan.headline)).await?;
        }
        Ok(Self {
            plan,
            output,
            bar,
            begun: Instant::now(),
            last: "",
        })
    }

    async fn stage(&mut self, stage: Stage) -> Result<(), Failure> {
        if self.output.output == Form::Json {
            let stage = pb::ChangeMembersResponse {
                stage: Some(stage),
                waited_ms: None,
            };
            return self
                .output
                .print(String::new, || json::message("ChangeMembersResponse", &stage))
                .await;
        }
        let (kind, line) = match &stage {
            Stage::Copying(copying) => {
                self.bar.set_length(copying.of);
                self.bar.set_position(copying.slots);
                // A line at the end alone: the bar shows the rest.
                return Ok(());
            }
            Stage::Deciding(deciding) => (
                "deciding",
                format!(
                    "deciding   {} of {} new members have the change\n",
                    deciding.accepted, deciding.of
                ),
            ),
            Stage::Switching(switching) => ("switching", format!("switching  to era {}\n", switching.era)),
            Stage::Done(_) => return Ok(()),
        };
        if self.last.is_empty() {
            self.copied().await?;
        }
        if std::mem::replace(&mut self.last, kind) == kind {
            return Ok(());
        }
        write(&line).await
    }

    /// The copy is complete.
    async fn copied(&mut self) -> Result<(), Failure> {
        self.bar.finish_and_clear();
        if self.plan.request.add.is_empty() {
            return Ok(());
        }
        // A log that begins with a backup does not begin at slot 0.
        let of = self.bar.length().unwrap_or_default();
        let took = self.begun.elapsed();
        write(&format!(
            "copied     up to slot {of} in {} ms\n",
            took.as_millis()
        ))
        .await
    }

    async fn done(
        &mut self,
        configuration: &pb::Configuration,
        waited_ms: Option<u64>,
    ) -> Result<(), Failure> {
        self.end();
        let read = Configuration::try_from(configuration.clone());
        let text = || match read {
            Ok(read) => done_text(self.plan, &read, waited_ms),
            Err(error) => format!("done       ({error})\n"),
        };
        let answer = pb::ChangeMembersResponse {
            stage: Some(Stage::Done(configuration.clone())),
            waited_ms,
        };
        self.output
            .print(text, || json::message("ChangeMembersResponse", &answer))
            .await
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

/// The last line: the new members, for how long commands waited, and what the operator may do now.
fn done_text(plan: &Plan, made: &Configuration, waited_ms: Option<u64>) -> String {
    let members = made.members().len();
    let quorums = made.quorums();
    let tolerance = Tolerance {
        members,
        votes: members,
        phase1: quorums.phase1(),
        phase2: quorums.phase2(),
    };
    let mut text = format!(
        "done       era {}, {members} members, {}",
        made.era(),
        tolerance.in_words()
    );
    if let Some(waited_ms) = waited_ms {
        text += &format!("; commands waited at most {waited_ms} ms");
    }
    text += ".";
    if !plan.off.is_empty() {
        text += &format!(" {} may be switched off.", plan.off.join(", "));
    }
    let addresses = made.members().values().map(|member| member.address.to_string());
    let addresses: Vec<_> = addresses.collect();
    let is_same =
        addresses.len() == plan.before.len() && addresses.iter().all(|address| plan.before.contains(address));
    if is_same {
        text += " PAXOS_ACCEPTORS may stay.\n";
    } else {
        text += &format!(
            " At leisure, set PAXOS_ACCEPTORS={}\n",
            printable(&addresses.join(","))
        );
    }
    text
}
