//! A guest of Nova: its metadata in the form of Nova 33.0.0, and the domain around it.

use serde_json::Value;

/// The properties of a guest beside its request, in Nova's terms.
pub(crate) struct Instance {
    pub(crate) namespace: &'static str,
    pub(crate) virt_type: String,
    pub(crate) arch: String,
    pub(crate) machine: String,
    /// Extra specs and image properties as Nova writes them; `None` for a missing element.
    pub(crate) extra_specs: Option<Vec<(String, String)>>,
    pub(crate) properties: Option<Vec<(String, String)>>,
    /// The image's UUID, empty for a guest that boots from a volume; `None` for a missing element.
    pub(crate) image: Option<String>,
    pub(crate) uefi: bool,
    /// Nova's own XML for the request.
    pub(crate) backing: &'static str,
    pub(crate) features: &'static str,
    pub(crate) devices: String,
}

/// The value of an extra spec or of a property: a string unchanged, numbers and booleans in Python's form.
pub(crate) fn written(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        other => other.to_string(),
    }
}

pub(crate) fn pairs(map: &Value) -> Vec<(String, String)> {
    map.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), written(value))).collect()
}

impl Instance {
    /// The instance of a case, before Nova's own XML for the request.
    pub(crate) fn of(case: &Value, namespace: &'static str) -> Instance {
        let input = &case["input"];
        let mut extra_specs = pairs(&input["extra_specs"]);
        if let Some(model) = input.get("mem_encryption_model") {
            // These cases name the model only; Nova's tests request the encryption in the flavor.
            extra_specs.push(("hw:mem_encryption".to_owned(), "True".to_owned()));
            extra_specs.extend(model.as_str().map(|model| ("hw:mem_encryption_model".to_owned(), model.to_owned())));
        }
        let properties = pairs(&input["image_props"]);
        let property = |name: &str| properties.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        let arch = input["arch"].as_str().map_or_else(|| "x86_64".to_owned(), str::to_owned);
        let machine = input["machine_type"].as_str().map(str::to_owned).or_else(|| property("hw_machine_type"));
        // Nova's default without a machine type.
        let default = if arch == "aarch64" { "virt" } else { "pc" };
        Instance {
            namespace,
            virt_type: input["virt_type"].as_str().unwrap_or("kvm").to_owned(),
            machine: machine.unwrap_or_else(|| default.to_owned()),
            // Nova boots AArch64 guests with UEFI only.
            uefi: arch == "aarch64" || property("hw_firmware_type").as_deref() == Some("uefi"),
            arch,
            extra_specs: Some(extra_specs),
            properties: Some(properties),
            image: Some("85daefce-4e20-4d2b-a4f3-11d3765f2a8f".to_owned()),
            backing: "",
            features: "",
            devices: String::new(),
        }
    }

    /// The domain as Nova writes it.
    pub(crate) fn xml(&self) -> String {
        let list = |item: &str, pairs: &[(String, String)]| {
            let escaped = |value: &str| value.replace('&', "&amp;").replace('<', "&lt;");
            let line = |(key, value): &(String, String)| {
                format!("<nova:{item} name=\"{key}\">{}</nova:{item}>\n          ", escaped(value))
            };
            pairs.iter().map(line).collect::<String>()
        };
        let container = |name: &str, item: &str, pairs: &Option<Vec<(String, String)>>| match pairs.as_deref() {
            None => String::new(),
            Some([]) => format!("<nova:{name}/>"),
            Some(pairs) => format!("<nova:{name}>\n          {}</nova:{name}>", list(item, pairs)),
        };
        let specs = container("extraSpecs", "extraSpec", &self.extra_specs);
        let properties = container("properties", "property", &self.properties);
        let image = self.image.as_ref().map_or_else(String::new, |uuid| {
            format!(
                "<nova:image uuid=\"{uuid}\">
        <nova:containerFormat>bare</nova:containerFormat>
        <nova:diskFormat>qcow2</nova:diskFormat>
        <nova:minDisk>10</nova:minDisk>
        <nova:minRam>0</nova:minRam>
        {properties}
      </nova:image>"
            )
        });
        let firmware = if self.uefi { " firmware='efi'" } else { "" };
        let Instance { namespace, virt_type, arch, machine, backing, features, devices, .. } = self;
        format!(
            "<domain type='{virt_type}'>
  <uuid>4ae4a1cb-d3b2-4a56-a0c1-4b4f4a0a2a11</uuid>
  <name>instance-00000001</name>
  <memory>2097152</memory>
  <vcpu>2</vcpu>
  <metadata>
    <nova:instance xmlns:nova=\"{namespace}\">
      <nova:package version=\"33.0.0\"/>
      <nova:name>web</nova:name>
      <nova:creationTime>2026-11-22 09:49:02</nova:creationTime>
      <nova:flavor name=\"m1.small\" id=\"1\">
        <nova:memory>2048</nova:memory>
        <nova:disk>10</nova:disk>
        <nova:swap>0</nova:swap>
        <nova:ephemeral>20</nova:ephemeral>
        <nova:vcpus>2</nova:vcpus>
        {specs}
      </nova:flavor>
      {image}
      <nova:owner>
        <nova:user uuid=\"838a72b0-0d54-4827-8fd6-fb1227633ceb\">N/A</nova:user>
        <nova:project uuid=\"fake\">N/A</nova:project>
      </nova:owner>
      <nova:ports/>
    </nova:instance>
  </metadata>
  <os{firmware}>
    <type arch='{arch}' machine='{machine}'>hvm</type>
  </os>
  {backing}
  <features>
    <acpi/>
    <apic/>
    {features}
  </features>
  <devices>
    <emulator>/usr/bin/qemu-system-{arch}</emulator>
    {devices}
  </devices>
</domain>
"
        )
    }
}
