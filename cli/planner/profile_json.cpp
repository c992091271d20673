// Profiles as JSON, both ways.
#include <cmath>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cli/planner/profile.hpp"

namespace fulgur::planner {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kFileBytesMax = 1 << 20;
constexpr std::size_t kPointsMax = 1024;

struct NumberField {
  const char* key;
  double Profile::*member;
  double low;
};
constexpr double kPositive = 1e-12;
constexpr double kLargest = 1e15;
constexpr NumberField kNumbers[] = {
    {"memory_gb", &Profile::memory_gb, kPositive},
    {"process_gb", &Profile::process_gb, 0},
    {"stream_gb_s", &Profile::stream_gb_s, kPositive},
    {"launch_us", &Profile::launch_us, 0},
    {"step_us", &Profile::step_us, 0},
    {"message_us", &Profile::message_us, 0},
    {"expert_floor_us", &Profile::expert_floor_us, 0},
    {"softmax_prefill_tflops", &Profile::softmax_prefill_tflops, kPositive},
};

struct CurveField {
  const char* key;
  Curve Profile::*member;
};
constexpr CurveField kCurves[] = {
    {"dense_gb_s_by_rows", &Profile::dense_gb_s},
    {"expert_gb_s_by_rows", &Profile::expert_gb_s},
    {"lightning_us_by_bytes", &Profile::lightning_us},
    {"softmax_us_by_bytes", &Profile::softmax_us},
    {"lightning_prefill_us_by_bytes", &Profile::lightning_prefill_us},
};

struct LinkField {
  const char* key;
  Link Profile::*member;
};
constexpr LinkField kLinks[] = {{"host_link", &Profile::host}, {"network_link", &Profile::network}};

Json curve_json(const Curve& curve) {
  Json points = Json::array();
  for (const Point& point : curve) points.push_back({point.x, point.y});
  return points;
}

/// Reads keys of one object; the first failure stays.
class Reader {
 public:
  Reader(const Json& object, std::string file, std::string prefix)
      : object_(object), file_(std::move(file)), prefix_(std::move(prefix)) {}

  Status status() const { return status_; }

  const Json* find(const char* key) {
    const auto found = object_.find(key);
    if (found != object_.end()) return &*found;
    fail(key, "is missing");
    return nullptr;
  }

  void number(const char* key, double low, double& out) {
    const Json* const value = find(key);
    if (value == nullptr) return;
    if (!is_number(*value, low)) return fail(key, "must be a number above or equal to its minimum");
    out = value->get<double>();
  }

  void text(const char* key, std::string& out) {
    const Json* const value = find(key);
    if (value == nullptr) return;
    if (!value->is_string()) return fail(key, "must be a string");
    out = value->get<std::string>();
  }

  void curve(const char* key, Curve& out) {
    const Json* const value = find(key);
    if (value == nullptr) return;
    if (!value->is_array() || value->empty() || value->size() > kPointsMax) {
      return fail(key, "must be a list of 1 to 1024 [x, y] points");
    }
    out.clear();
    for (const Json& point : *value) {
      const bool pair = point.is_array() && point.size() == 2;
      if (!pair || !is_number(point[0], kPositive) || !is_number(point[1], kPositive)) {
        return fail(key, "must hold [x, y] points of positive numbers");
      }
      const Point read{point[0].get<double>(), point[1].get<double>()};
      if (!out.empty() && read.x <= out.back().x) return fail(key, "must rise in x");
      out.push_back(read);
    }
  }

  void link(const char* key, Link& out) {
    const Json* const value = find(key);
    if (value == nullptr) return;
    if (!value->is_object()) return fail(key, "must be an object");
    Reader inner(*value, file_, prefix_ + key + ".");
    inner.number("latency_us", 0, out.latency_us);
    inner.curve("us_by_bytes", out.us_by_bytes);
    if (status_.is_ok()) status_ = inner.status();
  }

  void fail(const char* key, const char* what) {
    if (status_.is_ok()) {
      status_ = error(Code::invalid_argument, "{}: {}{} {}", file_, prefix_, key, what);
    }
  }

 private:
  static bool is_number(const Json& value, double low) {
    return value.is_number() && value.get<double>() >= low && value.get<double>() <= kLargest;
  }

  const Json& object_;
  std::string file_;
  std::string prefix_;
  Status status_;
};

void read_sources(Reader& reader, Profile& profile) {
  const Json* const sources = reader.find("sources");
  if (sources == nullptr) return;
  if (!sources->is_array()) return reader.fail("sources", "must be a list of strings");
  for (const Json& source : *sources) {
    if (!source.is_string()) return reader.fail("sources", "must be a list of strings");
    profile.sources.push_back(source.get<std::string>());
  }
}

}  // namespace

std::string to_json(const Profile& profile) {
  Json out;
  out["name"] = profile.name;
  out["title"] = profile.title;
  out["status"] = profile.status;
  out["sources"] = profile.sources;
  out["devices_per_host"] = profile.devices_per_host;
  out["take_turns"] = profile.take_turns;
  for (const auto& [key, member, low] : kNumbers) out[key] = profile.*member;
  for (const auto& [key, member] : kCurves) out[key] = curve_json(profile.*member);
  for (const auto& [key, member] : kLinks) {
    out[key] = {{"latency_us", (profile.*member).latency_us},
                {"us_by_bytes", curve_json((profile.*member).us_by_bytes)}};
  }
  return out.dump(2);
}

Result<Profile> parse_profile(std::string_view text, const std::string& file) {
  const Json object = Json::parse(text, nullptr, false);
  if (!object.is_object()) return error(Code::invalid_argument, "{}: is not a JSON object", file);
  Profile profile;
  Reader reader(object, file, "");
  reader.text("name", profile.name);
  reader.text("title", profile.title);
  reader.text("status", profile.status);
  read_sources(reader, profile);
  double devices = 0;
  reader.number("devices_per_host", 1, devices);
  profile.devices_per_host = static_cast<std::uint32_t>(std::min(devices, 4e9));
  if (const Json* const shared = reader.find("take_turns")) {
    if (shared->is_boolean()) profile.take_turns = shared->get<bool>();
    if (!shared->is_boolean()) reader.fail("take_turns", "must be true or false");
  }
  for (const auto& [key, member, low] : kNumbers) reader.number(key, low, profile.*member);
  for (const auto& [key, member] : kCurves) reader.curve(key, profile.*member);
  for (const auto& [key, member] : kLinks) reader.link(key, profile.*member);
  FULGUR_RETURN_IF_ERROR(reader.status());
  return profile;
}

Result<Profile> find_profile(const std::string& name) {
  std::string names;
  for (const Profile& profile : known_profiles()) {
    if (profile.name == name) return profile;
    names += profile.name + ", ";
  }
  if (!name.ends_with(".json")) {
    return error(Code::invalid_argument, "--gpu {}: no such profile; there are {}or FILE.json",
                 name, names);
  }
  std::ifstream stream(name, std::ios::binary);
  if (!stream) return error(Code::not_found, "--gpu {}: cannot be read", name);
  std::string text(kFileBytesMax + 1, '\0');
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(stream.gcount()));
  if (text.size() > kFileBytesMax) return error(Code::invalid_argument, "{}: is too long", name);
  return parse_profile(text, name);
}

}  // namespace fulgur::planner
