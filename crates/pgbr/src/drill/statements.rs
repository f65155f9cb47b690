//! A file of SQL as its statements. Pure.

/// Takes text apart at the semicolons that end statements: not those in strings, names, comments or bodies in dollar quotes. What has nothing
/// but blanks and comments is left out.
pub(super) fn split(text: &str) -> Vec<String> {
    let mut statements = Vec::new();
    let (mut rest, mut statement, mut says) = (text, String::new(), false);
    while let Some(first) = rest.chars().next() {
        let length = token(rest, &statement);
        let (token, after) = rest.split_at(length.clamp(first.len_utf8(), rest.len()));
        rest = after;
        match token {
            ";" => {
                take(&mut statements, &mut statement, says);
                says = false;
            }
            _ => {
                says |= !(first.is_whitespace() || token.starts_with("--") || token.starts_with("/*"));
                statement.push_str(token);
            }
        }
    }
    take(&mut statements, &mut statement, says);
    statements
}

fn take(statements: &mut Vec<String>, statement: &mut String, says: bool) {
    let done = std::mem::take(statement);
    if says {
        statements.push(done.trim().to_owned());
    }
}

/// The bytes of the first token: something quoted, a comment, or one character.
fn token(text: &str, before: &str) -> usize {
    let in_name = before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$');
    match text.as_bytes() {
        [b'\'', ..] => {
            // E'...' knows a backslash; the E is no end of a longer name.
            let mut last = before.chars().rev();
            let escapes = matches!(last.next(), Some('e' | 'E'))
                && !last.next().is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$');
            quoted(text, '\'', escapes)
        }
        [b'"', ..] => quoted(text, '"', false),
        [b'-', b'-', ..] => text.find('\n').unwrap_or(text.len()),
        [b'/', b'*', ..] => comment(text),
        [b'$', ..] if !in_name => dollar(text).unwrap_or(1),
        _ => 1,
    }
}

/// To the closing quote, doubled ones aside.
fn quoted(text: &str, quote: char, escapes: bool) -> usize {
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if escapes && c == '\\' {
            chars.next();
        } else if c == quote && chars.next_if(|(_, next)| *next == quote).is_none() {
            return at + 1;
        }
    }
    text.len()
}

/// To the end of a comment, which may hold others.
fn comment(text: &str) -> usize {
    let (mut at, mut depth) = (0, 0_usize);
    while let Some(rest) = text.get(at..) {
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth = depth.saturating_sub(1);
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            match rest.chars().next() {
                Some(c) => at += c.len_utf8(),
                None => break,
            }
        }
    }
    text.len()
}

/// To the end of `$tag$...$tag$`; none where that is no tag.
fn dollar(text: &str) -> Option<usize> {
    let end = text.get(1..)?.find('$')? + 2;
    let tag = text.get(..end)?;
    let name = tag.trim_matches('$');
    let is_name = !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_alphanumeric() || c == '_');
    if !is_name {
        return None;
    }
    let body = text.get(end..)?;
    Some(body.find(tag).map_or(text.len(), |at| end + at + tag.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semicolons_end_statements_where_they_stand_for_themselves() {
        for (text, wanted) in [
            ("", &[][..]),
            (" ;; -- nothing\n/* nor here; */ ;", &[]),
            ("select 1", &["select 1"]),
            ("select 1; select 2;\n", &["select 1", "select 2"]),
            ("select 'a;''b'; select \"c;\"\"d\"", &["select 'a;''b'", "select \"c;\"\"d\""]),
            (r"select E'a\';'; select 'a\'; select 2", &[r"select E'a\';'", r"select 'a\'", "select 2"]),
            ("select 1 -- a; b\n, 2; x", &["select 1 -- a; b\n, 2", "x"]),
            ("/* a /* b; */ c; */ select 1; x", &["/* a /* b; */ c; */ select 1", "x"]),
            ("do $$ begin x; end $$; y", &["do $$ begin x; end $$", "y"]),
            ("do $a$ x; $$; $a$; y", &["do $a$ x; $$; $a$", "y"]),
            ("select $1; select a$b; c$d", &["select $1", "select a$b", "c$d"]),
            ("select 'open; x", &["select 'open; x"]),
            ("select 'ü;'; é", &["select 'ü;'", "é"]),
            ("do $$ open;", &["do $$ open;"]),
            ("/* open;", &[]),
        ] {
            assert_eq!(split(text), wanted, "{text}");
        }
    }
}
