//! NoCloud: a medium labelled `cidata`, or a URL in `ds=nocloud;s=…` (cloud-init's DataSourceNoCloud).

use super::{Evidence, Place, Platform, is_named};
use crate::assemble::Files;
use std::collections::BTreeMap;

/// NoCloud.
#[derive(Debug)]
pub(super) struct NoCloud;

/// What is below a seed URL; cloud-init also asks for vendor-data, which has nothing for us yet.
const FILES: &[(&str, bool)] = &[("user-data", true), ("meta-data", false), ("network-config", false)];

impl Platform for NoCloud {
    fn name(&self) -> &'static str {
        "nocloud"
    }

    fn identify(&self, evidence: &Evidence) -> Result<Option<Place>, String> {
        if let Some(line) = &evidence.line
            && let Some(base) = &line.seed_from
        {
            if !line.needs_network() {
                return Err(format!("ds=nocloud;s={base}: expected an http or https URL"));
            }
            return Ok(Some(Place::Url { base: base.clone(), files: FILES, sha256: line.sha256.clone() }));
        }
        let labelled: Vec<&String> = evidence
            .media
            .iter()
            .filter(|(device, m)| {
                m.is_cidata() && evidence.cmdline.seed.as_ref().is_none_or(|named| is_named(device, named))
            })
            .map(|(device, _)| device)
            .collect();
        match labelled[..] {
            [] => Ok(None),
            [one] => Ok(Some(Place::Medium(one.clone()))),
            [ref first, ref second, ..] => Err(format!(
                "two media are labelled cidata: {first} and {second}; hint: name one on the kernel command line, \
                 quorate.seed=path:{first}"
            )),
        }
    }

    fn files(&self, mut read: BTreeMap<String, Vec<u8>>) -> Files {
        Files {
            user_data: read.remove("user-data"),
            meta_data: read.remove("meta-data"),
            network_config: read.remove("network-config"),
            others: read.into_keys().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::choose;
    use super::*;
    use crate::seed_media::Medium;

    fn evidence(cmdline: &str, dmi: &str, labels: &[(&str, &str)]) -> Evidence {
        let media = labels
            .iter()
            .map(|(device, label)| (device.to_string(), Medium { label: label.to_string(), ..Medium::default() }))
            .collect();
        Evidence::new(cmdline, dmi, media)
    }

    fn place(e: &Evidence) -> String {
        match choose(e) {
            Ok(Some((p, Place::Medium(m)))) => format!("{} {m}", p.name()),
            Ok(Some((p, Place::Url { base, .. }))) => format!("{} {base}", p.name()),
            Ok(None) => "none".into(),
            Err(e) => e,
        }
    }

    #[test]
    fn chooses_by_positive_identification() {
        let cases = [
            (evidence("", "", &[]), "none"),
            (evidence("", "", &[("/dev/vda", "x"), ("/dev/vdb", "cidata")]), "nocloud /dev/vdb"),
            (evidence("ds=nocloud", "", &[("/dev/vdb", "CIDATA")]), "nocloud /dev/vdb"),
            (evidence("ds=nocloud;s=https://a/b", "", &[("/dev/vdb", "cidata")]), "nocloud https://a/b/"),
            (evidence("", "ds=nocloud-net;s=http://a/", &[]), "nocloud http://a/"),
            (evidence("", "ds=nocloud;s=ftp://a/", &[]), "expected an http or https URL"),
            (evidence("", "", &[("/dev/vda", "cidata"), ("/dev/vdb", "cidata")]), "/dev/vda and /dev/vdb"),
            (
                evidence("quorate.seed=path:/dev/vdb", "", &[("/dev/vda", "cidata"), ("/dev/vdb", "cidata")]),
                "nocloud /dev/vdb",
            ),
            (evidence("quorate.ds=ec2", "", &[("/dev/vdb", "cidata")]), "expected one of nocloud"),
        ];
        for (e, want) in cases {
            let got = place(&e);
            assert!(got.contains(want), "{got}\n-- expected: {want}");
        }
    }
}
