//! A command that works on several repositories, one after the other: what fails in one does not keep it from the next.

use pgbr::RepoAccess;

use crate::exit::{CliError, ErrorCode};
use crate::failure::of_repo;
use crate::request;
use crate::run::{Context, Outcome};

/// Takes a step in every repository that the command works on, in order of priority.
pub(super) async fn each(
    context: &Context,
    mut step: impl AsyncFnMut(u16, RepoAccess) -> Result<(), CliError>,
) -> Outcome {
    let repos = request::repos(&context.settings)?;
    let mut failures = Failures::new(context, repos.len());
    for (key, repo) in repos {
        if let Err(error) = step(key, repo).await {
            failures.add(key, error);
        }
        if failures.stopped() {
            break;
        }
    }
    failures.end().map(|()| 0)
}

/// The repositories in which a command failed so far.
pub(super) struct Failures<'a> {
    context: &'a Context,
    /// Whether there is more than one repository.
    several: bool,
    failed: Vec<(u16, CliError)>,
}

impl<'a> Failures<'a> {
    /// None yet. `repos` is how many repositories the command works on.
    pub(super) fn new(context: &'a Context, repos: usize) -> Self {
        Self { context, several: repos > 1, failed: Vec::new() }
    }

    /// One more. Among several it is told at once.
    pub(super) fn add(&mut self, key: u16, error: CliError) {
        let error = of_repo(error, key);
        if self.several {
            let told = CliError { message: format!("repo{key}: {}", error.message), ..error.clone() };
            self.context.log.error(&told);
        }
        self.failed.push((key, error));
    }

    /// Whether the command is to end now: it was asked to.
    pub(super) fn stopped(&self) -> bool {
        self.failed.last().is_some_and(|(_, error)| error.code == ErrorCode::Term)
    }

    /// The end of the command. With one repository its error is the command's own; among several the error names those that failed.
    pub(super) fn end(mut self) -> Result<(), CliError> {
        if !self.several {
            return self.failed.pop().map_or(Ok(()), |(_, error)| Err(error));
        }
        let command = self.context.settings.command().name();
        let named = self.failed.into_iter().map(|(key, error)| (format!("repo{key}"), error));
        summary(command, "", &named.collect::<Vec<_>>()).map_or(Ok(()), Err)
    }
}

/// One error for those of several repositories or stanzas, which are called `what` and a name: of their code where all have the same.
pub(super) fn summary(command: &str, what: &str, failed: &[(String, CliError)]) -> Option<CliError> {
    let (_, first) = failed.first()?;
    let same = failed.iter().all(|(_, error)| error.code == first.code);
    let code = if same { first.code } else { ErrorCode::Command };
    let names: Vec<&str> = failed.iter().map(|(name, _)| name.as_str()).collect();
    Some(CliError::new(code, format!("{command} command failed on {what}{}", names.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_names_the_repositories_and_keeps_a_code_that_all_have() {
        let error = |code| CliError::new(code, "why").hint("what to do");
        assert_eq!(summary("check", "", &[]), None);
        let named = |name: &str, code| (name.to_owned(), error(code));
        let one = summary("check", "", &[named("repo2", ErrorCode::Crypto)]).unwrap();
        assert_eq!((one.code, one.text().as_str()), (ErrorCode::Crypto, "check command failed on repo2"));
        let two = [named("repo1", ErrorCode::Crypto), named("repo3", ErrorCode::FileMissing)];
        let two = summary("expire", "", &two).unwrap();
        assert_eq!(
            (two.code, two.text().as_str()),
            (ErrorCode::Command, "expire command failed on repo1, repo3")
        );
    }
}
