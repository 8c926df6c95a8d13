//! `latchkey apply -f FILE`: brings the directory to what a YAML file says.
//!
//! ```text
//! file ─► wanted ─┐
//!                 ├─► plan (pure) ─► shown, confirmed ─► carried out in order
//! server ─► found ┘
//! ```
//!
//! Only what differs is written, so a second run has nothing to do. What the file does not name is
//! left alone, unless `--prune` is given; then it is deleted at or below the file's home.

mod carry_out;
mod file;
mod logins;
mod plan;
#[cfg(test)]
mod plan_tests;

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::cluster::enforced;
use super::connect::CallerArgs;
use super::directory::calls::{Directory, Why};
use super::failure::CliError;
use super::output::made::EnforcementView;
use super::output::meter::Meter;
use super::output::{Output, Page, confirm, write};
use super::parse;
use plan::{Plan, Step};

/// What to apply, and how.
#[derive(Args, Debug)]
pub(crate) struct ApplyArgs {
    /// The YAML file, `-` for standard input.
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Why; takes the place of the file's own reason.
    #[arg(long)]
    reason: Option<String>,
    /// Do not ask before anything is written.
    #[arg(long)]
    yes: bool,
    /// Only show the plan.
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Delete what is at or below the file's home and not in the file.
    #[arg(long)]
    prune: bool,
    /// Wait until every replica has all of it.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    caller: CallerArgs,
}

/// What was planned and done.
#[derive(Serialize)]
struct Report {
    plan: Vec<Step>,
    /// How many things only `--prune` would delete.
    left_alone: usize,
    applied: usize,
    /// The last change; none when nothing was written.
    revision: Option<String>,
    /// How far all of it is enforced; none where that was not waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    enforcement: Option<EnforcementView>,
}

/// Shows the plan, asks, and carries it out.
///
/// # Errors
/// Usage for a file that cannot be read as it should be, and what the server refuses; what was done
/// before stays, and another run goes on from there.
pub(crate) async fn run(args: ApplyArgs, output: Output) -> Result<(), CliError> {
    let text = file::read(&args.file)?;
    let wanted = file::parse(&text).map_err(|error| {
        let name = args.file.display();
        CliError::usage(format!("{name} cannot be applied")).with_line(error)
    })?;
    let reason = reason(&args, wanted.reason.as_deref())?;
    if args.prune && wanted.home.is_none() {
        let why = "--prune needs a `home` at the top of the file, to know what it may delete";
        return Err(CliError::usage(why));
    }
    let session = args.caller.session().await?;
    let mut directory = Directory::new(&session);
    let meter = Meter::start("reading the directory");
    let found = carry_out::find(&mut directory, &wanted).await?;
    meter.end();
    let plan = plan::plan(&wanted, &found, args.prune).map_err(CliError::refused)?;

    let mut report = Report {
        left_alone: plan.left_alone,
        plan: plan.steps.clone(),
        applied: 0,
        revision: None,
        enforcement: None,
    };
    if !output.is_json() {
        let mut page = Page::default();
        show(&plan, &mut page);
        write(page.text())?;
    }
    if plan.steps.is_empty() || args.dry_run {
        return finish(&report, output);
    }
    agree(&args, plan.steps.len())?;
    let (total, mut wait) = (plan.steps.len(), args.wait);
    let meter = Meter::start("applying");
    for step in plan.steps {
        let line = step.line();
        let why = Why {
            reason: reason.clone(),
            ..Why::default()
        };
        let done = carry_out::carry_out(&mut directory, step.action, why).await;
        let made = done.map_err(|error| {
            error
                .with_line(format!("at: {line}"))
                .with_line(format!("{} of {total} steps were done", report.applied))
        })?;
        // One that not every replica has yet is waited for again, with all behind it.
        let enforced = made.enforcement.as_ref();
        wait |= enforced.is_some_and(|enforced| !enforced.is_confirmed());
        report.revision = Some(made.revision);
        report.applied += 1;
        meter.told(report.applied as u64, total as u64);
    }
    meter.end();
    if let Some(last) = report.revision.as_deref().filter(|_| wait) {
        let last = parse::revision(last).map_err(CliError::unavailable)?;
        report.enforcement = Some(enforced(&session, last).await?);
    }
    finish(&report, output)
}

/// Something must be known to be read by a person or allowed by a flag before it is done.
fn agree(args: &ApplyArgs, steps: usize) -> Result<(), CliError> {
    if args.yes {
        return Ok(());
    }
    if args.file == Path::new("-") {
        return Err(CliError::usage(
            "the file came from standard input; give --yes",
        ));
    }
    match confirm(&format!("Carry out {steps} steps?")) {
        Some(true) => Ok(()),
        Some(false) => Err(CliError::refused("nothing was changed")),
        None => Err(CliError::usage(
            "no terminal to ask on; give --yes to carry it out or --dry-run to only look",
        )),
    }
}

fn reason(args: &ApplyArgs, in_file: Option<&str>) -> Result<String, CliError> {
    let reason = args.reason.as_deref().or(in_file).unwrap_or_default();
    if reason.trim().is_empty() && !args.dry_run {
        let why = "a reason is required: --reason, or `reason` at the top of the file";
        return Err(CliError::usage(why));
    }
    Ok(reason.to_owned())
}

fn show(plan: &Plan, page: &mut Page) {
    for step in &plan.steps {
        page.line(step.line());
        for detail in &step.details {
            page.line(format!("    {detail}"));
        }
    }
    if plan.steps.is_empty() {
        page.line("nothing to do");
    }
    if plan.left_alone > 0 {
        let count = plan.left_alone;
        page.line(format!(
            "{count} more are not in the file; --prune deletes them"
        ));
    }
}

fn finish(report: &Report, output: Output) -> Result<(), CliError> {
    output.show(report, |page| {
        if let Some(revision) = &report.revision {
            page.line(format!(
                "{} steps done, at revision {revision}",
                report.applied
            ));
        }
        if let Some(enforcement) = &report.enforcement {
            page.line(enforcement.text());
        }
    })
}
