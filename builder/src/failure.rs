//! How a command's failure is told: what went wrong and why, then what to do about it; and its exit status.

use crate::place::{Misplaced, Refused};
use anyhow::Error;
use std::process::ExitCode;

/// Where a message's advice begins.
const HINT: &str = "; hint: ";

/// Bad input, as of an argument that clap refuses.
const USAGE: u8 = 2;

/// Tells it, and answers 2 for bad input, 1 for all else.
pub(crate) fn tell(error: &Error) -> ExitCode {
    eprintln!("quorate: {}", text(error));
    let is_input = error.chain().any(|c| c.is::<Misplaced>() || c.is::<Refused>());
    if is_input { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
}

/// The causes, outermost first, in one line: a hint is given beside what it is about, and stands after the last cause. A list,
/// a problem in each line, is as it is.
fn text(error: &Error) -> String {
    let messages: Vec<String> = error.chain().map(ToString::to_string).collect();
    if messages.iter().any(|m| m.contains('\n')) {
        return messages.join(": ");
    }
    let (whys, hints): (Vec<&str>, Vec<Option<&str>>) =
        messages.iter().map(|m| m.split_once(HINT).map_or((m.as_str(), None), |(why, hint)| (why, Some(hint)))).unzip();
    let hints: String = hints.into_iter().flatten().map(|hint| format!("{HINT}{hint}")).collect();
    whys.join(": ") + &hints
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn hints_come_last() {
        let e = anyhow!("no such file").context("reading a; hint: make it").context("up");
        assert_eq!(text(&e), "up: reading a: no such file; hint: make it");
        let e = anyhow!("b; hint: c").context("a; hint: d");
        assert_eq!(text(&e), "a: b; hint: d; hint: c");
        let e = Error::from(Refused(vec!["x:1: y; hint: z".into(), "x:2: w".into()])).context("c");
        assert_eq!(text(&e), "c: x:1: y; hint: z\nx:2: w");
    }
}
