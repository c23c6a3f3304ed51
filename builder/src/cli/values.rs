//! Values of arguments: times, steps of a clock, shares, signals.

use lab::clock::FACTORS;

/// `20ms`, `1.5s`, or a bare number of milliseconds.
pub(super) fn milliseconds(text: &str) -> Result<f64, String> {
    let (number, times) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(n), _) => (n, 1.0),
        (None, Some(n)) => (n, 1000.0),
        (None, None) => (text, 1.0),
    };
    let value = number.trim().parse::<f64>().ok().filter(|v| (0.0..1e9).contains(v)).map(|v| v * times);
    value.ok_or_else(|| format!("expected a time like 20ms or 1.5s, found {text}"))
}

/// Whole seconds, either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step(pub(crate) i64);

/// `+20m`, `-90s`.
pub(super) fn step(text: &str) -> Result<Step, String> {
    let wrong = || format!("expected a step like +20m, -1h or +730d, found {text}");
    let (sign, rest) = match text.split_at_checked(1) {
        Some(("+", rest)) => (1, rest),
        Some(("-", rest)) => (-1, rest),
        _ => return Err(wrong()),
    };
    let (number, unit) = rest.split_at_checked(rest.len().saturating_sub(1)).ok_or_else(wrong)?;
    let times = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let seconds = number.parse::<u32>().ok().and_then(|n| i64::from(n).checked_mul(times)).ok_or_else(wrong)?;
    if seconds > contract::voice::CLOCK_STEP_MAX {
        return Err("a clock jumps ten years at most".into());
    }
    Ok(Step(sign * seconds))
}

/// Host seconds per guest second.
pub(super) fn dilation(text: &str) -> Result<f64, String> {
    let factor = text.parse().ok().filter(|factor| FACTORS.contains(factor));
    factor.ok_or_else(|| format!("expected {} to {}, found {text}", FACTORS.start(), FACTORS.end()))
}

pub(super) fn signal(text: &str) -> Result<contract::voice::ServiceSignal, String> {
    contract::voice::ServiceSignal::parse(text).ok_or_else(|| "expected kill, term, stop or cont".into())
}

/// `5%` or `0.05`.
pub(super) fn share(text: &str) -> Result<f64, String> {
    let value = match text.strip_suffix('%') {
        Some(n) => n.trim().parse::<f64>().ok().map(|v| v / 100.0),
        None => text.parse::<f64>().ok(),
    };
    value.filter(|v| (0.0..=1.0).contains(v)).ok_or_else(|| format!("expected a share like 5% or 0.05, found {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_shares() {
        assert_eq!((dilation("1"), dilation("2.5")), (Ok(1.0), Ok(2.5)));
        assert!([dilation("0.9"), dilation("101"), dilation("NaN"), dilation("x")].iter().all(Result::is_err));
        assert_eq!((milliseconds("20ms"), milliseconds("1.5s"), milliseconds("7")), (Ok(20.0), Ok(1500.0), Ok(7.0)));
        assert!(milliseconds("soon").is_err() && milliseconds("-1ms").is_err());
        assert_eq!((share("5%"), share("0.5")), (Ok(0.05), Ok(0.5)));
        assert!(share("150%").is_err());
        assert_eq!((step("+20m"), step("-90s"), step("+730d")), (Ok(Step(1200)), Ok(Step(-90)), Ok(Step(63_072_000))));
        for bad in ["20m", "+", "+m", "+1y", "", "+4000d", "+-1s", "é"] {
            assert!(step(bad).is_err(), "{bad}");
        }
    }
}
