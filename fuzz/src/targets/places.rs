//! Where a restore puts tablespaces and links by what a backup calls them.

type Space<'a> = (u32, &'a str, &'a str);

pub(crate) fn run(input: (Vec<Space<'_>>, Vec<(&str, &str)>)) {
    let (spaces, links) = input;
    pgbr::fuzzing::places(&spaces, &links);
}
