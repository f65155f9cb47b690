//! The name that the program under test is called by.
//!
//! Started as `pgbackrest` it stands in for that program: it has that one's environment prefix, default paths and version. With
//! `PGBR_TEST_NAME=pgbackrest` all tests run it so; what rightly differs asks here.

/// `pgbr`, or what `PGBR_TEST_NAME` says.
///
/// # Panics
/// When that is neither `pgbr` nor `pgbackrest`.
pub fn program_name() -> &'static str {
    match std::env::var("PGBR_TEST_NAME").as_deref() {
        Err(_) | Ok("" | "pgbr") => "pgbr",
        Ok("pgbackrest") => "pgbackrest",
        Ok(other) => panic!("PGBR_TEST_NAME: \"{other}\" is neither pgbr nor pgbackrest"),
    }
}

/// The environment variable by which the program takes an option: `variable("repo1-path")` is `PGBR_REPO1_PATH`.
pub fn variable(option: &str) -> String {
    format!("{}_{}", program_name(), option.replace('-', "_")).to_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_have_the_prefix_of_the_name() {
        assert_eq!(variable("repo1-cipher-pass"), program_name().to_uppercase() + "_REPO1_CIPHER_PASS");
    }
}
