//! A restore: an operator's word that what the members have counts no more, and what is to take its place
//! ([`contract::node::Restore`]). It stands in the seeds of all members, and is carried out while a node starts, before its
//! etcd does:
//!
//! 1. data of before is put aside, not thrown away;
//! 2. the member that is named makes a snapshot its data (`etcdutl snapshot restore`, run by PID 1: `init/src/roles/etcd.rs`)
//!    and is a cluster of its own with it;
//! 3. the others are empty, and join it as any empty member joins a cluster that lives.
//!
//! The number of the restore that the data comes from lies beside the mark, and members tell it to each other: data of two
//! restores is never one cluster, and nobody begins while he sees a cluster that lives with data of before.

use super::decide::{Answer, Decision};
use super::mark::{self, Mark};
use crate::pki::write_file;
use contract::node::Restore;
use contract::{paths, users};
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind::NotFound;
use std::os::unix::process::CommandExt;
use std::path::Path;

/// What a member does about a restore before it asks how to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// There is none, or it is done.
    Done,
    /// Its data is void: it goes on empty.
    BeginEmpty,
    /// Its data is void, and the snapshot takes its place.
    Restore,
    /// Not yet, and why.
    Wait(String),
}

/// Decides. `own` is the number of the restore that this member's data comes from, 0 = none; `others` are all members but
/// this one, none = no answer.
pub(crate) fn rule(own: u64, wanted: Option<&Restore>, name: &str, others: &BTreeMap<String, Option<Answer>>) -> Rule {
    let known = own.max(wanted.map_or(0, |w| w.number));
    let answers = || others.iter().filter_map(|(n, a)| Some((n, a.as_ref()?)));
    if let Some((other, a)) = answers().find(|(_, a)| a.restore > known) {
        return Rule::Wait(format!(
            "{other} has the data of restore {}, of which this node's seed does not know: it needs the new one",
            a.restore
        ));
    }
    let Some(wanted) = wanted.filter(|w| w.number > own) else { return Rule::Done };
    if let Some((other, _)) = answers().find(|(_, a)| a.leader && a.restore < wanted.number) {
        return Rule::Wait(format!("{other} still serves the data of before the restore: it is to start again first"));
    }
    // Somebody leads with the data of this very restore: whoever lost his disk since then joins as anybody else.
    let is_led = answers().any(|(_, a)| a.leader);
    if wanted.member == name && !is_led { Rule::Restore } else { Rule::BeginEmpty }
}

/// Answers of members whose data comes from another restore are none: they are of another cluster.
pub(crate) fn of_the_same(own: u64, others: BTreeMap<String, Option<Answer>>) -> BTreeMap<String, Option<Answer>> {
    others.into_iter().map(|(n, a)| (n, a.filter(|a| a.restore == own))).collect()
}

/// Which restore this member's data comes from; 0 = none. A file that cannot be read is an error: guessing could mix data.
pub(crate) fn number() -> Result<u64, String> {
    number_in(Path::new(paths::ETCD_RESTORED))
}

fn number_in(path: &Path) -> Result<u64, String> {
    match fs::read_to_string(path) {
        Ok(text) => text.trim().parse().map_err(|e| format!("{}: {e}", path.display())),
        Err(e) if e.kind() == NotFound => Ok(0),
        Err(e) => Err(format!("{}: {e}", path.display())),
    }
}

/// From here on this member's data, or that it has none, is of this restore.
pub(crate) fn settle(number: u64) -> Result<(), String> {
    let path = Path::new(paths::ETCD_RESTORED);
    write_file(path, &number.to_string(), 0o644, users::ROOT).map_err(|e| format!("{}: {e}", path.display()))
}

/// Puts aside what is there. It may be cut off at any point, and is then done again: what was put aside first is what is
/// kept, for after that only half a restore can lie in its place.
pub(crate) fn put_aside(number: u64) -> Result<(), String> {
    aside(Path::new(paths::ETCD_DATA), Path::new(paths::ETCD_BEFORE), self::number()?, number)?;
    match fs::remove_file(paths::ETCD_MARK) {
        Err(e) if e.kind() != NotFound => Err(format!("{}: {e}", paths::ETCD_MARK)),
        _ => Ok(()),
    }
}

/// `own` is the restore that the data comes from, and `number` the one that begins.
fn aside(data: &Path, before: &Path, own: u64, number: u64) -> Result<(), String> {
    let said = |what: &Path| {
        let what = what.display().to_string();
        move |e: std::io::Error| format!("{what}: {e}")
    };
    let (member, kept) = (data.join("member"), before.join(number.to_string()));
    if !member.exists() {
        return Ok(());
    }
    // What a restore that was not finished put aside is what etcd had; in its place is at most what that restore made.
    let newer = |e: fs::DirEntry| e.file_name().to_str().and_then(|n| n.parse::<u64>().ok()).is_some_and(|n| n > own);
    if fs::read_dir(before).is_ok_and(|mut kept| kept.any(|e| e.is_ok_and(newer))) {
        return fs::remove_dir_all(&member).map_err(said(&member));
    }
    // One is kept: that of the restore before this one goes.
    if before.exists() {
        fs::remove_dir_all(before).map_err(said(before))?;
    }
    fs::create_dir_all(before).map_err(said(before))?;
    fs::rename(&member, &kept).map_err(said(&member))?;
    sync(data)?;
    sync(before)
}

fn sync(dir: &Path) -> Result<(), String> {
    let synced = fs::File::open(dir).and_then(|d| d.sync_all());
    synced.map_err(|e| format!("{}: {e}", dir.display()))
}

/// The verb `restore-etcd NUMBER PROGRAM…`: becomes the program, unless that restore is done already.
pub(crate) fn make(words: &[String]) -> Result<(), String> {
    let [number, program, arguments @ ..] = words else { return Err("expected a number and a program".into()) };
    if is_done(number)? {
        return Ok(());
    }
    // Half of one that was cut off.
    match fs::remove_dir_all(paths::ETCD_RESTORING) {
        Err(e) if e.kind() != NotFound => return Err(format!("{}: {e}", paths::ETCD_RESTORING)),
        _ => {}
    }
    Err(format!("{program}: {}", std::process::Command::new(program).args(arguments).exec()))
}

/// The verb `take-restored NUMBER`: what was made of the snapshot becomes etcd's data.
pub(crate) fn take(words: &[String]) -> Result<(), String> {
    let [number] = words else { return Err("expected a number".into()) };
    if is_done(number)? {
        return Ok(());
    }
    let (made, data) = (Path::new(paths::ETCD_RESTORING).join("member"), Path::new(paths::ETCD_DATA));
    sync_all(&made)?;
    // Data of before was put aside before the snapshot was taken in: this is the same restore's, cut off before it was settled.
    match fs::remove_dir_all(data.join("member")) {
        Err(e) if e.kind() != NotFound => return Err(format!("{}: {e}", data.display())),
        _ => {}
    }
    // It has a log of its own from the start, and no leader yet: as a member that begins with a list of one.
    mark::write(Path::new(paths::ETCD_MARK), &Mark::Bootstrapping { digest: format!("restore {number}") })?;
    fs::rename(&made, data.join("member")).map_err(|e| format!("{}: {e}", made.display()))?;
    sync(data)?;
    settle(number.parse().map_err(|e| format!("{number}: {e}"))?)?;
    // Those were the operator's, who has them, of this restore and of any that was begun before; what is kept are the node's own.
    let (dir, name) = (Path::new(paths::SNAPSHOTS), Path::new(paths::SNAPSHOT_TO_RESTORE).file_name());
    let begins =
        |e: &fs::DirEntry| name.is_some_and(|n| e.file_name().as_encoded_bytes().starts_with(n.as_encoded_bytes()));
    let said = |e: std::io::Error| format!("{}: {e}", dir.display());
    fs::read_dir(dir).map_err(said)?.flatten().filter(begins).try_for_each(|e| fs::remove_file(e.path()).map_err(said))
}

/// What a member does that would begin: where there was a restore, only the one that restores makes a cluster anew.
pub(crate) fn but_not_anew(own: u64, decision: Decision) -> Decision {
    match decision {
        Decision::Bootstrap | Decision::Wait(_) if own > 0 => {
            Decision::Wait(format!("a leader with the data of restore {own}"))
        }
        other => other,
    }
}

fn is_done(wanted: &str) -> Result<bool, String> {
    Ok(number()? >= wanted.parse::<u64>().map_err(|e| format!("{wanted}: {e}"))?)
}

fn sync_all(path: &Path) -> Result<(), String> {
    let said = |e: std::io::Error| format!("{}: {e}", path.display());
    if path.is_dir() {
        for entry in fs::read_dir(path).map_err(said)? {
            sync_all(&entry.map_err(said)?.path())?;
        }
    }
    sync(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn others(answers: &[(&str, Option<(u64, bool)>)]) -> BTreeMap<String, Option<Answer>> {
        let answer = |(restore, leader)| Answer { mark: Some(Mark::Formed), leader, restore };
        answers.iter().map(|(n, a)| ((*n).to_owned(), a.map(answer))).collect()
    }

    #[test]
    fn the_rule_row_by_row() {
        let wanted = |number| Restore { number, member: "a".into(), sha256: String::new() };
        let silent = others(&[("b", None), ("c", None)]);
        let waits = |rule: Rule, word: &str| matches!(&rule, Rule::Wait(w) if w.contains(word));
        assert_eq!(rule(0, None, "a", &silent), Rule::Done, "no restore");
        assert_eq!(rule(0, Some(&wanted(3)), "a", &silent), Rule::Restore);
        assert_eq!(rule(0, Some(&wanted(3)), "b", &silent), Rule::BeginEmpty);
        assert_eq!(rule(3, Some(&wanted(3)), "a", &silent), Rule::Done, "on every later boot");
        assert_eq!(rule(3, Some(&wanted(5)), "a", &silent), Rule::Restore, "a second one");
        // Who has data of before, and leads nobody, holds nobody up; a cluster that lives with it does.
        let before = others(&[("b", Some((0, false))), ("c", None)]);
        assert_eq!(rule(0, Some(&wanted(3)), "a", &before), Rule::Restore);
        let lives = others(&[("b", Some((0, true))), ("c", None)]);
        assert!(waits(rule(0, Some(&wanted(3)), "a", &lives), "b still serves"));
        assert!(waits(rule(0, Some(&wanted(3)), "c", &lives), "b still serves"));
        // The named one's disk was lost after the restore.
        let restored = others(&[("b", Some((3, true))), ("c", Some((3, true)))]);
        assert_eq!(rule(0, Some(&wanted(3)), "a", &restored), Rule::BeginEmpty);
        // A seed from before the restore, with data or without.
        assert!(waits(rule(0, None, "a", &restored), "restore 3"));
        assert!(waits(rule(2, Some(&wanted(2)), "a", &restored), "restore 3"));
        let same = of_the_same(3, others(&[("b", Some((3, true))), ("c", Some((0, true)))]));
        assert!(same["b"].is_some() && same["c"].is_none(), "of another cluster");
    }

    #[test]
    fn what_was_there_is_kept_whenever_it_is_cut_off() {
        let dir = tempfile::tempdir().expect("a directory");
        let (data, before) = (dir.path().join("etcd"), dir.path().join("before"));
        let put = |text: &str| {
            fs::create_dir_all(data.join("member")).expect("made");
            fs::write(data.join("member/db"), text).expect("written");
        };
        let kept = |number: &str| fs::read_to_string(before.join(number).join("db")).ok();
        fs::create_dir_all(&data).expect("made");
        aside(&data, &before, 0, 3).expect("nothing there is nothing to put aside");
        put("first");
        aside(&data, &before, 0, 3).expect("put aside");
        assert!(!data.join("member").exists());
        put("half a restore");
        aside(&data, &before, 0, 3).expect("again");
        assert!(!data.join("member").exists());
        assert_eq!(kept("3").as_deref(), Some("first"));
        put("half a restore");
        aside(&data, &before, 0, 5).expect("another one, before that was finished");
        assert_eq!((data.join("member").exists(), kept("3").as_deref()), (false, Some("first")));
        put("second");
        aside(&data, &before, 5, 7).expect("the next restore");
        assert_eq!((kept("3"), kept("7").as_deref()), (None, Some("second")), "one is kept");
    }

    #[test]
    fn a_number_that_cannot_be_read_is_no_absent_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("restored");
        assert_eq!(number_in(&path), Ok(0));
        fs::write(&path, "x").expect("written");
        assert!(number_in(&path).is_err());
        fs::write(&path, "4\n").expect("written");
        assert_eq!(number_in(&path), Ok(4));
    }
}
