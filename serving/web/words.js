// What the page says, in English and Chinese. `word` looks a text up; `translate` puts the texts into the document.

const WORDS = {
  en: {
    skip: "Skip to the question", page: "Page", new: "New conversation", key: "API key", theme: "Light or dark",
    conversation: "Conversation", composer: "Ask", examples: "Examples", tray: "Pictures to send",
    question: "Your question", placeholder: "What is in the picture?",
    hint: "Drop or paste pictures anywhere. Enter sends, Shift+Enter begins a new line, Esc stops.",
    choose: "Add pictures", photograph: "Take a photo", stop: "Stop", send: "Ask", settings: "Settings",
    temperature: "Temperature (0 to 2)", length: "Longest answer, in tokens", serverDefault: "the server's own",
    schema: "JSON schema of the answer", schemaWrong: "This is not JSON: {0}",
    code: "This request as code", codeLanguage: "Programming language", copy: "Copy", copied: "Copied", snippet: "Code",
    panel: "Server", memory: "Memory plan", drop: "Drop pictures to ask about them",
    keyTitle: "This server needs an API key", keyWhy: "It is kept in this tab only, until you close it.",
    keyWrong: "The server does not know this key.", keyUse: "Use it", cancel: "Cancel",
    you: "You", model: "Answer", picture: "Picture {0}: {1}", remove: "Remove {0}", boxes: "{0} marked on the picture: {1}",
    answered: "The answer is complete.", asking: "Asking …", stopped: "Stopped.", cut: "The answer ran into its length limit.",
    figures: "{0} tokens, first after {1} s, {2} tokens/s", againIn: "The server asks to wait {0} s.",
    failed: "No answer", unreachable: "The server cannot be reached. Is it running?", broken: "The connection broke off.",
    needQuestion: "Write a question, or add a picture.", notPicture: "{0} is not a picture. Send JPEG, PNG, WebP or GIF.",
    unreadable: "{0} cannot be read as a picture.", tooBig: "{0} is too large: {1} MiB, and a whole request may be {2} MiB.",
    tooMany: "This server takes {0} pictures in a conversation. Begin a new one, or leave some out.",
    describe: "What is in the picture?",
    waitingTitle: "The server is starting", left: "About {0} s left.", leftUnknown: "How long it takes is not known yet; the next start will tell.",
    state_starting: "starting", state_warming: "warming up", state_ready: "ready", state_stalled: "slow", state_draining: "finishing",
    state_restarting: "restarting", state_asleep: "asleep", state_hung: "hung", state_unreachable: "not reachable", state_key: "needs a key",
    step_import: "Starting Python and vLLM", step_config: "Reading the model's config", step_engine: "Starting the engine",
    step_weights: "Loading the weights", step_profile: "Measuring the memory", step_compile: "Compiling",
    step_graphs: "Capturing CUDA graphs", step_api: "Opening the API", step_warmup: "Warming up with a text and a picture",
    fact_model: "Model", fact_profile: "Profile", fact_gpu: "Card", fact_speed: "Tokens/s now", fact_first: "First token", fact_queue: "Queue",
    queue: "{0} running, {1} waiting", seconds: "{0} s", none: "–", planned: "Planned {0} of {1} MiB", measured: "Measured {0} MiB", mib: "{0} MiB",
    weights: "weights", buffers: "buffers", activations: "activations", vision_encoder: "vision encoder", encoder_cache: "encoder cache",
    logits: "logits", cuda_graphs: "CUDA graphs", context: "context", kv_cache: "KV cache", fragmentation: "fragmentation", headroom: "headroom",
    ex_shapes: "What is it?", ex_shapes_q: "What is in the picture?", ex_count: "Count", ex_count_q: "How many circles are there?",
    ex_read: "Read", ex_read_q: "What does it say?", ex_json: "As JSON", ex_json_q: "Answer as JSON with the keys shape and color.",
    ex_find: "Find", ex_find_q: "Locate every circle. Answer as JSON: a list of objects with bbox_2d and label.",
  },
  zh: {
    skip: "跳到提问框", page: "页面", new: "新对话", key: "API 密钥", theme: "浅色或深色",
    conversation: "对话", composer: "提问", examples: "示例", tray: "待发送的图片",
    question: "你的问题", placeholder: "图片中有什么？",
    hint: "可将图片拖放或粘贴到页面任意位置。Enter 发送，Shift+Enter 换行，Esc 停止。",
    choose: "添加图片", photograph: "拍照", stop: "停止", send: "提问", settings: "设置",
    temperature: "温度（0 到 2）", length: "回答的最大长度（token）", serverDefault: "服务器默认值",
    schema: "回答的 JSON schema", schemaWrong: "这不是 JSON：{0}",
    code: "以代码表示此请求", codeLanguage: "编程语言", copy: "复制", copied: "已复制", snippet: "代码",
    panel: "服务器", memory: "显存计划", drop: "松开即可添加图片",
    keyTitle: "此服务器需要 API 密钥", keyWhy: "密钥只保存在此标签页中，关闭后即清除。",
    keyWrong: "服务器不认识这个密钥。", keyUse: "使用", cancel: "取消",
    you: "你", model: "回答", picture: "图片 {0}：{1}", remove: "移除 {0}", boxes: "图片上标出了 {0} 处：{1}",
    answered: "回答完毕。", asking: "正在提问……", stopped: "已停止。", cut: "回答达到了长度上限。",
    figures: "{0} 个 token，首个用时 {1} 秒，{2} token/秒", againIn: "服务器请你等待 {0} 秒。",
    failed: "没有回答", unreachable: "无法连接服务器。它在运行吗？", broken: "连接中断了。",
    needQuestion: "请写下问题，或添加图片。", notPicture: "{0} 不是图片。请发送 JPEG、PNG、WebP 或 GIF。",
    unreadable: "无法将 {0} 作为图片读取。", tooBig: "{0} 太大：{1} MiB，而整个请求最多 {2} MiB。",
    tooMany: "此服务器在一次对话中最多接受 {0} 张图片。请开始新对话，或去掉几张。",
    describe: "图片中有什么？",
    waitingTitle: "服务器正在启动", left: "大约还需 {0} 秒。", leftUnknown: "尚不知道需要多久；下次启动时便会知道。",
    state_starting: "启动中", state_warming: "预热中", state_ready: "就绪", state_stalled: "响应缓慢", state_draining: "正在收尾",
    state_restarting: "重启中", state_asleep: "休眠", state_hung: "无响应", state_unreachable: "无法连接", state_key: "需要密钥",
    step_import: "启动 Python 和 vLLM", step_config: "读取模型配置", step_engine: "启动引擎",
    step_weights: "加载权重", step_profile: "测量内存", step_compile: "编译",
    step_graphs: "捕获 CUDA 图", step_api: "开放 API", step_warmup: "用一段文字和一张图片预热",
    fact_model: "模型", fact_profile: "配置", fact_gpu: "显卡", fact_speed: "当前 token/秒", fact_first: "首个 token", fact_queue: "队列",
    queue: "{0} 个进行中，{1} 个等待", seconds: "{0} 秒", none: "–", planned: "计划 {0} / {1} MiB", measured: "实测 {0} MiB", mib: "{0} MiB",
    weights: "权重", buffers: "缓冲区", activations: "激活", vision_encoder: "视觉编码器", encoder_cache: "编码器缓存",
    logits: "logits", cuda_graphs: "CUDA 图", context: "上下文", kv_cache: "KV 缓存", fragmentation: "碎片", headroom: "余量",
    ex_shapes: "这是什么？", ex_shapes_q: "图片中有什么？", ex_count: "计数", ex_count_q: "图中有几个圆形？",
    ex_read: "读字", ex_read_q: "图片上写的是什么？", ex_json: "输出 JSON", ex_json_q: "Answer as JSON with the keys shape and color.",
    ex_find: "定位", ex_find_q: "找出每个圆形，以 JSON 列表回答，每项含 bbox_2d 和 label。",
  },
};

const listeners = [];
let language = localStorage.getItem("onecard-language") ?? (navigator.language.startsWith("zh") ? "zh" : "en");

/** The text of `name` in the chosen language, `{0}`, `{1}` … filled in. */
export function word(name, ...values) {
  return (WORDS[language][name] ?? name).replace(/\{(\d)\}/g, (_, place) => values[place]);
}

export const known = (name) => name in WORDS[language];

export function translate(root = document) {
  for (const node of root.querySelectorAll("[data-word]")) node.textContent = word(node.dataset.word);
  for (const node of root.querySelectorAll("[data-label]")) node.setAttribute("aria-label", word(node.dataset.label));
  for (const node of root.querySelectorAll("[data-placeholder]")) node.placeholder = word(node.dataset.placeholder);
}

/** Calls `listener` now and after every change of the language. */
export function whenTranslated(listener) {
  listeners.push(listener);
  listener();
}

export function otherLanguage() {
  language = language === "en" ? "zh" : "en";
  localStorage.setItem("onecard-language", language);
  apply();
}

function apply() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  const button = document.getElementById("language");
  button.textContent = language === "zh" ? "English" : "中文";
  button.lang = language === "zh" ? "en" : "zh";
  translate();
  for (const listener of listeners) listener();
}

apply();
