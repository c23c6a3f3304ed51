//! Debian versions and their order (deb-version(7)).

use std::cmp::Ordering;

/// Compares two versions: epoch, upstream version, revision.
pub(crate) fn compare(a: &str, b: &str) -> Ordering {
    let (ea, ua, ra) = split(a);
    let (eb, ub, rb) = split(b);
    ea.cmp(&eb).then_with(|| compare_part(ua, ub)).then_with(|| compare_part(ra, rb))
}

fn split(v: &str) -> (u64, &str, &str) {
    let (epoch, rest) = v.split_once(':').map_or((0, v), |(e, r)| (e.parse().unwrap_or(0), r));
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
    (epoch, upstream, revision)
}

/// Alternately a run of non-digits by Debian's letter order, and a run of digits by value.
fn compare_part(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        let na = a.iter().take_while(|c| !c.is_ascii_digit()).count();
        let nb = b.iter().take_while(|c| !c.is_ascii_digit()).count();
        for i in 0..na.max(nb) {
            let order = weight(a[..na].get(i)).cmp(&weight(b[..nb].get(i)));
            if order.is_ne() {
                return order;
            }
        }
        (a, b) = (&a[na..], &b[nb..]);
        let da = a.iter().take_while(|c| c.is_ascii_digit()).count();
        let db = b.iter().take_while(|c| c.is_ascii_digit()).count();
        let order = digits(&a[..da]).cmp(&digits(&b[..db]));
        if order.is_ne() {
            return order;
        }
        (a, b) = (&a[da..], &b[db..]);
        if a.is_empty() && b.is_empty() {
            return Ordering::Equal;
        }
    }
}

/// `~` before the end, the end before letters, letters before all else.
fn weight(c: Option<&u8>) -> i32 {
    match c {
        Some(b'~') => -1,
        None => 0,
        Some(c) if c.is_ascii_alphabetic() => i32::from(*c),
        Some(c) => i32::from(*c) + 256,
    }
}

/// Comparable whatever the length: without leading zeros, by length first.
fn digits(d: &[u8]) -> (usize, &[u8]) {
    let start = d.iter().take_while(|c| **c == b'0').count();
    (d.len() - start, &d[start..])
}

/// Whether `have` stands in `relation` (`>=`, `>>`, `<=`, `<<`, `=`) to `want`.
pub(crate) fn satisfies(have: &str, relation: &str, want: &str) -> bool {
    let order = compare(have, want);
    match relation {
        ">=" | ">" => order.is_ge(),
        ">>" => order.is_gt(),
        "<=" | "<" => order.is_le(),
        "<<" => order.is_lt(),
        _ => order.is_eq(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn debians_own_examples() {
        // deb-version(7), and pairs met in the archive.
        let ascending = [
            ["1.0~beta1~svn1245", "1.0~beta1"],
            ["1.0~beta1", "1.0"],
            ["1.0", "1.0-1"],
            ["1.0-1", "1.0-1+b1"],
            ["2.41-12", "2.41-12+deb13u1"],
            ["6.12.9-1", "6.12.117-1"],
            ["1.9", "1.10"],
            ["9", "1:0"],
            ["1.0a", "1.0+"],
            ["0", "00001"],
        ];
        for [a, b] in ascending {
            assert_eq!(compare(a, b), Ordering::Less, "{a} < {b}");
            assert_eq!(compare(b, a), Ordering::Greater, "{b} > {a}");
        }
        assert_eq!(compare("1.00", "1.0"), Ordering::Equal);
        assert!(satisfies("2.3", ">=", "2.3") && !satisfies("2.3", ">>", "2.3") && satisfies("2.2", "<<", "2.3"));
    }

    proptest! {
        #[test]
        fn is_an_order(a in "[0-9a-z.+~:-]{1,12}", b in "[0-9a-z.+~:-]{1,12}", c in "[0-9a-z.+~:-]{1,12}") {
            prop_assert_eq!(compare(&a, &a), Ordering::Equal);
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            if compare(&a, &b).is_le() && compare(&b, &c).is_le() {
                prop_assert!(compare(&a, &c).is_le());
            }
        }
    }
}
