//! `latchkey user|team|service|role|grant`: the directory from the command line.
//!
//! `calls` speaks to the server and is shared with `apply`; `principal`, `role` and `grant` are the
//! verbs. The three kinds of principals have the same verbs and differ only in the call. What verbs
//! take and how they show records is here, once.

pub(crate) mod calls;
pub(crate) mod grant;
pub(crate) mod login_method;
pub(crate) mod principal;
pub(crate) mod role;

use clap::Args;
use serde::Serialize;

use super::connect::CallerArgs;
use super::failure::CliError;
use super::output::made::Made;
use super::output::record::{Listed, Record};
use super::output::{Output, notice};
use calls::{Directory, Why};

/// What every write of the directory takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct WriteArgs {
    /// Why; kept in the audit trail.
    #[arg(long)]
    pub reason: String,
    /// Makes the command safe to send again: 1 to 64 characters of A-Z a-z 0-9 . _ -
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    pub request_id: String,
    /// Wait until every replica has it, also where it only adds something.
    #[arg(long)]
    pub wait: bool,
    /// The server and the caller.
    #[command(flatten)]
    pub caller: CallerArgs,
}

impl WriteArgs {
    fn why(&self) -> Why {
        Why {
            reason: self.reason.clone(),
            request_id: self.request_id.clone(),
            wait: self.wait,
        }
    }

    async fn directory(&self) -> Result<Directory, CliError> {
        directory(&self.caller).await
    }
}

/// What every list takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct PageArgs {
    /// The most to list.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = at_least_one)]
    pub limit: usize,
    /// The server and the caller.
    #[command(flatten)]
    pub caller: CallerArgs,
}

impl PageArgs {
    async fn directory(&self) -> Result<Directory, CliError> {
        directory(&self.caller).await
    }
}

/// Which one.
#[derive(Args, Debug)]
pub(crate) struct GetArgs {
    /// Its name.
    name: String,
    #[command(flatten)]
    caller: CallerArgs,
}

/// Which ones.
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Only those whose home is this path or below it.
    #[arg(
        long,
        value_name = "PATH",
        default_value = "",
        hide_default_value = true
    )]
    home_under: String,
    #[command(flatten)]
    page: PageArgs,
}

/// Which one, to be written.
#[derive(Args, Debug)]
pub(crate) struct NamedArgs {
    /// Its name.
    name: String,
    #[command(flatten)]
    write: WriteArgs,
}

async fn directory(caller: &CallerArgs) -> Result<Directory, CliError> {
    Ok(Directory::new(&caller.session().await?))
}

/// A record after a write.
#[derive(Serialize)]
struct Written<T: Serialize> {
    #[serde(flatten)]
    record: T,
    #[serde(flatten)]
    made: Made,
}

/// Shows a write that leaves no record.
fn done(what: &str, made: &Made, output: Output) -> Result<(), CliError> {
    output.show(made, |page| made.page(what, page))
}

/// Shows one record.
fn shown(record: &impl Record, output: Output) -> Result<(), CliError> {
    output.show(record, |page| record.fields(page))
}

/// Shows a record after a write, and the change.
fn written<R: Record>(
    what: &str,
    (record, made): (R, Made),
    output: Output,
) -> Result<(), CliError> {
    let written = Written { record, made };
    output.show(&written, |page| {
        written.made.page(what, page);
        written.record.fields(page);
    })
}

/// Shows a list with one name for JSON and a table for people.
fn listed<L: Listed>(
    name: &'static str,
    (records, more): (Vec<L>, bool),
    output: Output,
) -> Result<(), CliError> {
    let mut document = serde_json::Map::new();
    if output.is_json() {
        let value = serde_json::to_value(&records)
            .map_err(|error| CliError::refused(format!("cannot write the answer: {error}")))?;
        document.insert(name.to_owned(), value);
        document.insert("more".to_owned(), more.into());
    }
    output.show(&document, |page| {
        page.table(L::HEADER, records.iter().map(L::row));
    })?;
    if more {
        notice("there are more; raise --limit to see them");
    }
    Ok(())
}

fn at_least_one(text: &str) -> Result<usize, String> {
    let number: usize = text.parse().map_err(|_| "is a number".to_owned())?;
    if number == 0 {
        return Err("is at least 1".to_owned());
    }
    Ok(number)
}
