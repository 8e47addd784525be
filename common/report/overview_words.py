"""The words of the page of all ladders, beside those of every page."""

from types import MappingProxyType

from common.report import page_words

EN = {
    "all_title": "All ladders on {device}",
    "all_headline": "What to turn on here",
    "all_described": "{date}. Each figure is the gain over that ladder's baseline of the rungs "
    "that are named and what they stand on, with its 95 % interval; it was measured on this "
    "machine, on that ladder's own workload. What was not told from noise is not recommended.",
    "nothing_on": "nothing: no gain was told",
    "once_only": "nothing: each rung was measured once, which tells no gain from noise",
    "not_climbed": "not measured",
    "total": "{text}, with {rungs} together",
    "rungs_of": "rungs",
    "and_rungs": " and ",
    "interval_of": "{low} to {high}",
    "counted": "counted",
    "gain_over": "over {name}",
    "equal": "the same {title} as {name}",
    "costs": "Cost",
    "beside_it": "Beside it",
    "again_by": "Changed again by",
    "others_of": "Better in {title}",
    "elsewhere": "Gains on another branch",
    "regained": "Only regains what a rung below lost",
    "undone": "Gains, but a rung above undoes it",
    "untold": "Not told",
    "unequal": "The same",
    "lost": "Worse here",
    "barred": "Gains, but {limit}",
    "skipped": "Does not apply",
    "failed_rungs": "Failed",
    "absent": "Not measured",
    "whole_report": "The whole report: {title}",
    "pictures": "The ladders",
    "failed_ladder": "failed: {reason}",
    "refused": "cannot run here: {reason}",
    "left": "left out: {reason}",
    "cut": "stopped when the budget was spent; what was measured until then is shown",
    "interrupted": "interrupted; what was measured until then is shown",
    "not_begun": "not begun",
    "all_footer": "Made from the records of {count} ladders in this folder, which may be moved or "
    "sent as a whole. The same records make the same page.",
}
JA = {
    "all_title": "すべてのはしご（{device}）",
    "all_headline": "このマシンで有効にすべきもの",
    "all_described": "{date}。各値は、挙げた段とその下に積まれた段を入れたときの、そのはしごの"
    "ベースラインに対する倍率と 95 % 信頼区間です。このマシンで、はしごごとの負荷を使って計測"
    "しました。誤差と区別できないものは薦めません。",
    "nothing_on": "なし：差があるとは言えません",
    "once_only": "なし：各段を 1 回しか計測しておらず、誤差と区別できません",
    "not_climbed": "計測なし",
    "total": "{text}（{rungs} を合わせた値）",
    "rungs_of": "段",
    "and_rungs": "、",
    "interval_of": "{low}〜{high}",
    "counted": "数えた値",
    "gain_over": "{name} に対して",
    "equal": "{title} は {name} と同じ",
    "costs": "代償",
    "beside_it": "同時に変わる値",
    "again_by": "さらに変更する段",
    "others_of": "{title} ではこちらが良い",
    "elsewhere": "別の枝で効果あり",
    "regained": "下の段で失った分を取り戻すだけ",
    "undone": "効果はあるが、上の段が元に戻す",
    "untold": "差があるとは言えない",
    "unequal": "同じ",
    "lost": "ここでは逆効果",
    "barred": "効果はあるが、{limit}",
    "skipped": "適用外",
    "failed_rungs": "失敗",
    "absent": "計測なし",
    "whole_report": "レポート全体：{title}",
    "pictures": "はしごの図",
    "failed_ladder": "失敗：{reason}",
    "refused": "ここでは実行できません：{reason}",
    "left": "対象外：{reason}",
    "cut": "時間の上限に達したため中断（それまでの計測値を表示）",
    "interrupted": "中断（それまでの計測値を表示）",
    "not_begun": "未着手",
    "all_footer": "このフォルダーにある {count} 個のはしごの記録から作成しました。フォルダーごと"
    "移動や送付ができます。同じ記録からは同じページができます。",
}
WORDS = MappingProxyType({"en": page_words.EN | EN, "ja": page_words.JA | JA})
