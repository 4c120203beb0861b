//! Commands on the settings.

use taskflow_protocol::message::Row;
use taskflow_protocol::model::SettingsFields;
use taskflow_protocol::values::Seq;

use super::super::due;
use super::{Draft, Judged, Refusal};

impl Draft<'_> {
    pub(super) fn settings_patch(&mut self, set: &SettingsFields, base: Option<Seq>) -> Judged {
        let present = self.overlay.settings();
        self.check_base(base, present.version, || Row::Settings(present.to_wire()))?;
        let mut settings = present.clone();
        let SettingsFields {
            time_zone,
            week_start,
            locale,
        } = set;
        if let Some(zone) = time_zone {
            settings.time_zone = due::zone(zone).map_err(|why| Refusal::value("time_zone", why))?;
        }
        if let Some(week_start) = week_start {
            settings.week_start = *week_start;
        }
        if let Some(tag) = locale {
            settings.locale = due::locale(tag).map_err(|why| Refusal::value("locale", why))?;
        }
        self.overlay.put_settings(settings);
        Ok(())
    }
}
