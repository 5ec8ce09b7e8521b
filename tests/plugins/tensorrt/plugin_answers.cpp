// Ask one plugin what TensorRT asks it, and print the answers: what Python's bindings do not reach.
//
//   plugin_answers LIBRARY OP FIELD=VALUE... -- TYPE:SHAPE...
//
// One TYPE:SHAPE, as in half:1,5,64, for each input and then each output. Reasons go to stderr.
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <sstream>
#include <string>
#include <vector>

using namespace nvinfer1;

std::vector<std::string> parts(std::string const& text, char separator) {
    std::vector<std::string> found;
    std::stringstream stream(text);
    for (std::string part; std::getline(stream, part, separator);) found.push_back(part);
    return found;
}

DynamicPluginTensorDesc tensor(std::string const& text) {
    static std::map<std::string, DataType> const types{
        {"half", DataType::kHALF}, {"bf16", DataType::kBF16},   {"float", DataType::kFLOAT},
        {"int8", DataType::kINT8}, {"int32", DataType::kINT32}, {"int64", DataType::kINT64}};
    DynamicPluginTensorDesc made{};
    made.desc.type = types.at(parts(text, ':')[0]);
    made.desc.format = TensorFormat::kLINEAR;
    for (std::string const& size : parts(parts(text, ':')[1], ',')) {
        made.desc.dims.d[made.desc.dims.nbDims++] = std::stoll(size);
    }
    made.min = made.opt = made.max = made.desc.dims;
    return made;
}

std::string fields_of(IPluginV3* plugin) {
    auto* runtime =
        static_cast<IPluginV3OneRuntime*>(plugin->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
    PluginFieldCollection const* fields = runtime->getFieldsToSerialize();
    std::string text;
    for (int32_t i = 0; i < fields->nbFields; ++i) {
        text += (i == 0 ? "" : ", ") + std::string(fields->fields[i].name) + "=" +
                std::to_string(*static_cast<int32_t const*>(fields->fields[i].data));
    }
    return text;
}

void print_formats(IPluginV3OneBuild* build, std::vector<DynamicPluginTensorDesc> tensors) {
    int32_t const inputs = static_cast<int32_t>(tensors.size()) - build->getNbOutputs();
    auto const print = [&](char const* name) {
        std::printf("%s=", name);
        for (size_t i = 0; i < tensors.size(); ++i) {
            bool const takes = build->supportsFormatCombination(static_cast<int32_t>(i), tensors.data(),
                                                                inputs, build->getNbOutputs());
            std::printf("%d", takes ? 1 : 0);
        }
        std::printf("\n");
    };
    print("formats");
    for (DynamicPluginTensorDesc& each : tensors) each.desc.format = TensorFormat::kCHW4;
    print("vectorized");
}

int main(int count, char** arguments) {
    void* library = dlopen(arguments[1], RTLD_NOW);
    if (library == nullptr) return std::fprintf(stderr, "%s\n", dlerror()), 1;
    auto* creators =
        reinterpret_cast<IPluginCreatorInterface* const* (*)(int32_t&)>(dlsym(library, "getCreators"));
    int32_t all = 0;
    IPluginCreatorInterface* const* listed = creators(all);
    IPluginCreatorV3One* creator = nullptr;
    for (int32_t i = 0; i < all; ++i) {
        auto* each = static_cast<IPluginCreatorV3One*>(listed[i]);
        if (std::string(each->getPluginName()) == arguments[2]) creator = each;
    }
    int at = 3;
    std::vector<std::vector<std::string>> given;
    for (; at < count && std::string(arguments[at]) != "--"; ++at) given.push_back(parts(arguments[at], '='));
    std::vector<int64_t> values;  // of 64 bits: the other width than what is serialized
    for (auto const& field : given) values.push_back(std::stoll(field[1]));
    std::vector<PluginField> fields;
    for (size_t i = 0; i < given.size(); ++i) {
        fields.emplace_back(given[i][0].c_str(), &values[i], PluginFieldType::kINT64, 1);
    }
    PluginFieldCollection const collection{static_cast<int32_t>(fields.size()), fields.data()};
    IPluginV3* first = creator->createPlugin("first", &collection, TensorRTPhase::kBUILD);
    std::printf("created=%d\n", first != nullptr ? 1 : 0);
    if (first == nullptr) return 0;
    auto* core = static_cast<IPluginV3OneCore*>(first->getCapabilityInterface(PluginCapabilityType::kCORE));
    auto* build =
        static_cast<IPluginV3OneBuild*>(first->getCapabilityInterface(PluginCapabilityType::kBUILD));
    auto* runtime =
        static_cast<IPluginV3OneRuntime*>(first->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
    std::printf("name=%s %s '%s'\n", core->getPluginName(), core->getPluginVersion(),
                core->getPluginNamespace());
    std::printf("fields=%s\ntiming=%s\n", fields_of(first).c_str(), build->getTimingCacheID());
    IPluginV3* again =
        creator->createPlugin("again", runtime->getFieldsToSerialize(), TensorRTPhase::kRUNTIME);
    std::printf("from_engine=%s\n", fields_of(again).c_str());

    std::vector<DynamicPluginTensorDesc> tensors;
    for (++at; at < count; ++at) tensors.push_back(tensor(arguments[at]));
    if (tensors.empty()) return 0;
    int32_t const outputs = build->getNbOutputs();
    int32_t const inputs = static_cast<int32_t>(tensors.size()) - outputs;
    print_formats(build, tensors);
    int32_t const status = build->configurePlugin(tensors.data(), inputs, tensors.data() + inputs, outputs);
    std::printf("configured=%d\n", status == 0 ? 1 : 0);
    if (status != 0) return 0;
    std::vector<int32_t> tactics(build->getNbTactics());
    build->getValidTactics(tactics.data(), static_cast<int32_t>(tactics.size()));
    std::printf("tactics=");
    for (int32_t const tactic : tactics) std::printf("%d ", tactic);
    std::printf("\nworkspace=%zu\n",
                build->getWorkspaceSize(tensors.data(), inputs, tensors.data() + inputs, outputs));
    IPluginV3* clone = first->clone();
    delete first;  // a clone stands by itself
    auto* cloned =
        static_cast<IPluginV3OneBuild*>(clone->getCapabilityInterface(PluginCapabilityType::kBUILD));
    std::printf("clone=%s\nclone_tactics=%d\n", fields_of(clone).c_str(), cloned->getNbTactics());
    delete clone;
    delete again;
    return 0;
}
